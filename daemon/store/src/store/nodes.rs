//! The verbs on nodes, tokens and the leadership.

use std::collections::BTreeMap;

use cobalt_core::{Beat, Bytes, Node, NodeId, TokenId, VolumeId};
use cobalt_failpoint::{self as failpoint, Effect};

use super::{BATCH, Saved, Store, StoreError, Stored, new_op, put};
use crate::kv::{Entry, Guard, LeaseId, Op, Txn};
use crate::lease::Term;
use crate::record::{Holder, Named, Token, UsageBucket, decode, encode, operation};
use crate::together::Committed;

impl Store {
    /// Writes a node's configuration with its name; `read_at` is `None` for a new node.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when another node has the name.
    pub async fn save_node(&self, node: &Node, read_at: Option<i64>) -> Result<Saved, StoreError> {
        let (key, name_key) = (self.keys.node(node.id), self.keys.node_name(&node.name));
        let op = new_op();
        let named = self.kv.get(&name_key).await?;
        let owner = named.as_ref().map(|entry| decode::<Named>(&name_key, &entry.value));
        if let Some(owner) = owner.transpose()?.filter(|owner| owner.0 != node.id.0) {
            let why = format!(
                "the name \"{}\" belongs to node {}: choose another one with --node-name",
                node.name,
                NodeId(owner.0)
            );
            return Err(StoreError::Taken(why));
        }
        let txn = Txn {
            guards: vec![
                read_at.map_or(Guard::Absent(key.clone()), |at| Guard::Unmoved(key.clone(), at)),
                named.map_or(Guard::Absent(name_key.clone()), |entry| {
                    Guard::Unmoved(name_key.clone(), entry.revision)
                }),
            ],
            ops: vec![
                put(&key, encode(node, &op), None)?,
                put(&name_key, encode(&Named(node.id.0), &op), None)?,
            ],
        };
        failpoint::before(Effect::NodeSave)?;
        let outcome = self.commit(txn, &op).await?;
        failpoint::after(Effect::NodeSave)?;
        match outcome {
            Committed::Done(revision) => Ok(Saved::Done(revision)),
            Committed::Refused(_) => Ok(Saved::Moved),
        }
    }

    /// Reads one node, from etcd itself.
    ///
    /// # Errors
    /// When etcd does not answer, or what is stored cannot be read.
    pub async fn node(&self, id: NodeId) -> Result<Option<Stored<Node>>, StoreError> {
        let key = self.keys.node(id);
        let read = |entry: Entry| {
            Ok(Stored { value: decode(&key, &entry.value)?, revision: entry.revision })
        };
        self.kv.get(&key).await?.map(read).transpose()
    }

    /// Says what a node is like, for as long as the lease lasts. Only one machine may say so at a
    /// time; on one machine the pool's lock sees to it that the earlier Agent is gone.
    ///
    /// # Errors
    /// [`StoreError::Taken`] while an Agent on another machine holds the node.
    pub async fn beat(&self, lease: LeaseId, id: NodeId, beat: &Beat) -> Result<(), StoreError> {
        let key = self.keys.beat(id);
        let held = self.kv.get(&key).await?;
        let holder = held.as_ref().map(|entry| decode::<Beat>(&key, &entry.value)).transpose()?;
        let is_other =
            |other: &Beat| other.incarnation != beat.incarnation && other.boot != beat.boot;
        if let Some(other) = holder.filter(is_other) {
            let why = format!("another agent (on {}) runs this node", other.hostname);
            return Err(StoreError::Taken(why));
        }
        let guard = held.map_or(Guard::Absent(key.clone()), |entry| {
            Guard::Unmoved(key.clone(), entry.revision)
        });
        let op = new_op();
        let txn =
            Txn { guards: vec![guard], ops: vec![put(&key, encode(beat, &op), Some(lease))?] };
        failpoint::before(Effect::BeatSave)?;
        let outcome = self.commit(txn, &op).await?;
        failpoint::after(Effect::BeatSave)?;
        match outcome {
            Committed::Done(_) => Ok(()),
            Committed::Refused(_) => {
                Err(StoreError::Taken("the node's sign of life was changed by another".into()))
            }
        }
    }

    /// Says what some volumes of a node hold. Later words replace earlier ones.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn save_usage(
        &self,
        node: NodeId,
        buckets: &BTreeMap<String, BTreeMap<VolumeId, Bytes>>,
    ) -> Result<(), StoreError> {
        let op = new_op();
        let buckets: Vec<_> = buckets.iter().collect();
        for some in buckets.chunks(BATCH) {
            let mut txn = Txn::default();
            for (bucket, used) in some {
                let key = self.keys.usage(node, bucket);
                txn.ops.push(match used.is_empty() {
                    true => Op::Delete(key),
                    false => put(&key, encode(&UsageBucket((*used).clone()), &op), None)?,
                });
            }
            failpoint::before(Effect::UsageSave)?;
            self.commit(txn, &op).await?;
            failpoint::after(Effect::UsageSave)?;
        }
        Ok(())
    }

    /// Keeps a new token.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn create_token(&self, token: &Token) -> Result<i64, StoreError> {
        let key = self.keys.token(token.id);
        let op = new_op();
        let txn = Txn {
            guards: vec![Guard::Absent(key.clone())],
            ops: vec![put(&key, encode(token, &op), None)?],
        };
        failpoint::before(Effect::TokenCreate)?;
        let outcome = self.commit(txn, &op).await?;
        failpoint::after(Effect::TokenCreate)?;
        match outcome {
            Committed::Done(revision) => Ok(revision),
            Committed::Refused(_) => Err(StoreError::Refused("the token's id is taken".into())),
        }
    }

    /// Removes a token. `None` when there is none of this id.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn revoke_token(&self, id: TokenId) -> Result<Option<i64>, StoreError> {
        let key = self.keys.token(id);
        let Some(entry) = self.kv.get(&key).await? else {
            return Ok(None);
        };
        let txn = Txn {
            guards: vec![Guard::Unmoved(key.clone(), entry.revision)],
            ops: vec![Op::Delete(key)],
        };
        failpoint::before(Effect::TokenRevoke)?;
        let outcome = self.commit(txn, "").await?;
        failpoint::after(Effect::TokenRevoke)?;
        match outcome {
            Committed::Done(revision) => Ok(Some(revision)),
            // Tokens never change: it is gone.
            Committed::Refused(_) => Ok(Some(entry.revision)),
        }
    }

    /// Ends the lease of a process that is known to be gone, so that nobody waits for its end.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn end_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        failpoint::before(Effect::LeaseEnd)?;
        self.kv.revoke(lease).await?;
        Ok(failpoint::after(Effect::LeaseEnd)?)
    }

    /// Tries to become the leader with a lease. `None` while another one leads. Who leads with
    /// this very lease already, because the answer to an earlier try was lost, learns its term.
    ///
    /// # Errors
    /// [`StoreError::SessionOver`] when the lease has ended.
    pub async fn campaign(&self, lease: LeaseId, who: &str) -> Result<Option<Term>, StoreError> {
        let key = self.keys.leader();
        // etcd gives the number of a lease only once, so it tells our own key from others'.
        let op = format!("lease-{}", lease.0);
        let txn = Txn {
            guards: vec![Guard::Absent(key.clone())],
            ops: vec![put(&key, encode(&Holder(who.to_owned()), &op), Some(lease))?],
        };
        failpoint::before(Effect::TermWin)?;
        let outcome = self.commit(txn, &op).await?;
        failpoint::after(Effect::TermWin)?;
        Ok(match outcome {
            Committed::Done(created) => Some(Term { key, created }),
            Committed::Refused(found) => {
                let ours = |entry: &Entry| operation(&entry.value).as_deref() == Some(&*op);
                let entry = found.into_iter().flatten().find(ours);
                entry.map(|entry| Term { key, created: entry.created })
            }
        })
    }
}
