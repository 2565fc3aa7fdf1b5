//! Writes the records of many volumes together: while one transaction is under way, others
//! queue up and share the next. One at a time costs nothing extra.

use cobalt_store::{Change, Saved, Store};
use tokio::sync::{mpsc, oneshot};

/// How many share a transaction at most.
const TOGETHER: usize = 40;
/// How many may wait.
const QUEUE: usize = 1024;

type Asked = (Change, oneshot::Sender<Result<Saved, String>>);

/// Takes changes from many and writes them together.
#[derive(Clone, Debug)]
pub(super) struct Saver {
    queue: mpsc::Sender<Asked>,
}

impl Saver {
    pub(super) fn start(store: Store) -> Saver {
        let (queue, mut asked) = mpsc::channel::<Asked>(QUEUE);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(TOGETHER);
            while asked.recv_many(&mut batch, TOGETHER).await > 0 {
                let (changes, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                let store = store.clone();
                // In a task of its own: a fault in one write must not end all writing.
                let write = tokio::spawn(async move { store.save_as_agent(&changes).await });
                let outcome = match write.await {
                    Ok(outcome) => outcome.map_err(|error| error.to_string()),
                    Err(panic) => Err(format!("a fault in cobaltd: {panic}")),
                };
                for (index, reply) in replies.into_iter().enumerate() {
                    let each = match &outcome {
                        Ok(saved) => saved
                            .get(index)
                            .cloned()
                            .unwrap_or_else(|| Err("not written".to_owned())),
                        Err(why) => Err(why.clone()),
                    };
                    // Whoever asked may have gone; the record is written all the same.
                    let _ = reply.send(each);
                }
            }
        });
        Saver { queue }
    }

    /// Writes one change. The error is a sentence.
    pub(super) async fn save(&self, change: Change) -> Result<Saved, String> {
        let (reply, answer) = oneshot::channel();
        let ended = || "the writer of records has ended".to_owned();
        self.queue.send((change, reply)).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}
