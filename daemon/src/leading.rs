//! Which term the Engine of this process leads in, for what runs only where it leads.

use std::sync::Arc;

use cobalt_store::Term;
use tokio::sync::watch;

/// Told by the Engine, heard by others. Clones share it; nothing leads at first.
#[derive(Clone, Debug)]
pub struct Leading(Arc<watch::Sender<Option<Term>>>);

impl Default for Leading {
    fn default() -> Leading {
        Leading(Arc::new(watch::Sender::new(None)))
    }
}

impl Leading {
    /// It leads in `term` until what is given back is dropped.
    pub fn begin(&self, term: &Term) -> Led<'_> {
        self.0.send_replace(Some(term.clone()));
        Led(self)
    }

    /// Waits until it leads.
    pub async fn begun(&self) -> Term {
        let mut heard = self.0.subscribe();
        loop {
            if let Some(term) = heard.borrow_and_update().clone() {
                return term;
            }
            // The teller lives as long as we do.
            let _ = heard.changed().await;
        }
    }

    /// Waits until it does not lead in `term` any more.
    pub async fn ended(&self, term: &Term) {
        let mut heard = self.0.subscribe();
        let _ = heard.wait_for(|now| now.as_ref() != Some(term)).await;
    }
}

/// While it lives, the Engine leads.
#[derive(Debug)]
pub struct Led<'a>(&'a Leading);

impl Drop for Led<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(None);
    }
}
