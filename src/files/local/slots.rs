//! Values by key, each of which exists as long as there is a reference to it.

use std::{collections::HashMap, hash::Hash, ops::Deref, sync::Arc};

use parking_lot::Mutex;

/// The values in use.
#[derive(Debug)]
pub(super) struct Slots<K, V>(Arc<Mutex<HashMap<K, Arc<V>>>>);

impl<K, V> Default for Slots<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash, V: Default> Slots<K, V> {
    /// Takes a reference to the value of a key, which is the default one if there is no other reference.
    pub(super) fn acquire(&self, key: K) -> SlotRef<K, V> {
        let mut slots = self.0.lock();
        SlotRef {
            value: Some(Arc::clone(slots.entry(key.clone()).or_default())),
            key,
            slots: Arc::clone(&self.0),
        }
    }
}

/// A reference to a value.
#[derive(Debug)]
pub(super) struct SlotRef<K: Eq + Hash, V> {
    key: K,
    /// None once it is dropped.
    value: Option<Arc<V>>,
    slots: Arc<Mutex<HashMap<K, Arc<V>>>>,
}

impl<K: Eq + Hash, V> SlotRef<K, V> {
    pub(super) fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash, V> Clone for SlotRef<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            value: self.value.clone(),
            slots: Arc::clone(&self.slots),
        }
    }
}

impl<K: Eq + Hash, V> Deref for SlotRef<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.value.as_deref().expect("only drop takes it")
    }
}

impl<K: Eq + Hash, V> Drop for SlotRef<K, V> {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        // Under the lock, so that the last of two that are dropped at a time finds itself to be the last.
        self.value = None;
        if slots
            .get(&self.key)
            .is_some_and(|value| Arc::strong_count(value) == 1)
        {
            slots.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{any::Any, cell::RefCell, hash::Hasher, rc::Rc};

    use super::*;

    #[test]
    fn value_lives_as_long_as_a_reference() {
        let slots = Slots::<_, Mutex<u32>>::default();
        let first = slots.acquire("a");
        *first.lock() = 1;
        let second = slots.acquire("a");
        drop(first);
        assert_eq!(*second.clone().lock(), 1);
        assert_eq!(*slots.acquire("b").lock(), 0);
        drop(second);
        assert!(slots.0.lock().is_empty());
        assert_eq!(*slots.acquire("a").lock(), 0);
    }
    /// A key that drops something else when it is dropped.
    #[derive(Clone, Default)]
    struct Key(Rc<RefCell<Option<Box<dyn Any>>>>);

    impl PartialEq for Key {
        fn eq(&self, _: &Self) -> bool {
            true
        }
    }

    impl Eq for Key {}

    impl Hash for Key {
        fn hash<H: Hasher>(&self, _: &mut H) {}
    }

    impl Drop for Key {
        fn drop(&mut self) {
            let other = self.0.take();
            drop(other);
        }
    }

    #[test]
    fn value_is_removed_by_the_last_of_two_that_are_dropped_at_a_time() {
        let slots = Slots::<Key, Mutex<u32>>::default();
        let key = Key::default();
        let first = slots.acquire(key.clone());
        let second = slots.acquire(Key::default());
        // The second is dropped in the midst of the first.
        *key.0.borrow_mut() = Some(Box::new(second));
        drop(first);
        assert!(key.0.borrow().is_none());
        assert!(slots.0.lock().is_empty());
    }
}
