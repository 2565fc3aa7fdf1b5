//! What bad input is thrown at: the reading of records. Built for fuzzing only.

use std::fmt::Debug;

use cobalt_core::{Beat, Node, Volume};

use crate::callbacks::{Callback, Cursor};
use crate::keys::Keys;
use crate::kv::{Entry, Event};
use crate::record::{
    Cluster, Holder, Named, Record, Token, UsageBucket, decode, encode, operation,
};
use crate::view::View;

/// Reads a value as each kind of record; what is one is written and read again.
pub fn reread(value: &[u8]) {
    same::<Volume>(value);
    same::<Node>(value);
    same::<Beat>(value);
    same::<Token>(value);
    same::<Callback>(value);
    same::<Cursor>(value);
    same::<Cluster>(value);
    same::<Holder>(value);
    same::<Named>(value);
    same::<UsageBucket>(value);
    operation(value);
}

fn same<R: Record + PartialEq + Debug>(value: &[u8]) {
    let Ok(record) = decode::<R>("key", value) else { return };
    let written = encode(&record, "op");
    let again = decode::<R>("key", &written).expect("what was written can be read");
    assert_eq!(again, record);
    assert_eq!(operation(&written).as_deref(), Some("op"));
}

/// What is known of the cluster `default` after these changes, in order; a value of `None`
/// removes its key.
pub fn view(changes: &[(&str, Option<&[u8]>)]) -> View {
    let keys = Keys::new(&"default".parse().expect("it is a name"));
    let mut view = View::of(&keys, &[], 1);
    for ((key, value), revision) in changes.iter().zip(2..) {
        let key = format!("{}{key}", keys.prefix());
        let event = match value {
            Some(value) => {
                Event::Put(Entry { key, value: value.to_vec(), revision, created: revision })
            }
            None => Event::Delete { key, revision },
        };
        view.apply(&keys, &event);
    }
    view
}
