//! Requests that wait, in the order they will be looked at.

use std::collections::VecDeque;

use crate::request::{At, RequestId};
use crate::sequence::Sequence;

/// First come first served, or by (priority, arrival). A preempted request goes to the front of the former and to its
/// own place in the latter.
#[derive(Debug, Clone)]
pub struct WaitingQueue {
    by_priority: bool,
    entries: VecDeque<(Key, RequestId)>,
}

type Key = (i32, At, u64);

fn key(seq: &Sequence) -> Key {
    (seq.request.priority, seq.arrived, seq.number)
}

impl WaitingQueue {
    pub fn new(by_priority: bool) -> Self {
        WaitingQueue { by_priority, entries: VecDeque::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.entries.iter().map(|(_, id)| *id)
    }

    pub fn front(&self) -> Option<RequestId> {
        self.entries.front().map(|(_, id)| *id)
    }

    /// Counted from the front.
    pub fn get(&self, place: usize) -> Option<RequestId> {
        self.entries.get(place).map(|(_, id)| *id)
    }

    pub fn take(&mut self, place: usize) -> Option<RequestId> {
        self.entries.remove(place).map(|(_, id)| id)
    }

    pub fn place(&self, id: RequestId) -> Option<usize> {
        self.entries.iter().position(|(_, waiting)| *waiting == id)
    }

    pub fn push_new(&mut self, seq: &Sequence) {
        if self.by_priority {
            self.insert_in_order(seq)
        } else {
            self.entries.push_back((key(seq), seq.id()))
        }
    }

    /// Puts back what ran already or was taken out by mistake.
    pub fn push_again(&mut self, seq: &Sequence) {
        if self.by_priority {
            self.insert_in_order(seq)
        } else {
            self.entries.push_front((key(seq), seq.id()))
        }
    }

    /// A new order, for policies that sort; equal keys keep theirs.
    pub fn sort_by_key<K: Ord>(&mut self, mut key: impl FnMut(RequestId) -> K) {
        self.entries.make_contiguous().sort_by_key(|(_, id)| key(*id));
    }

    /// Whether the request waited here.
    pub fn remove(&mut self, id: RequestId) -> bool {
        let position = self.entries.iter().position(|(_, waiting)| *waiting == id);
        position.and_then(|i| self.entries.remove(i)).is_some()
    }

    fn insert_in_order(&mut self, seq: &Sequence) {
        let key = key(seq);
        let place = self.entries.partition_point(|(other, _)| *other <= key);
        self.entries.insert(place, (key, seq.id()));
    }
}
