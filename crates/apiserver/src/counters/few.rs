//! Values by few keys, each made when its key first comes up and kept for good. They are found without a lock and
//! without text: handles of metrics are looked up once, and the request path finds them here.

use std::sync::OnceLock;

/// See the module. As many values as there are keys: keys must be words of this program, or as many as those.
pub(crate) struct Few<K, V>(OnceLock<Box<Node<K, V>>>);

struct Node<K, V> {
    key: K,
    value: V,
    next: Few<K, V>,
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K: Copy + PartialEq, V> Few<K, V> {
    /// The value of a key.
    pub fn get(&self, key: K, make: impl Fn() -> V) -> &V {
        let mut place = self;
        loop {
            let fresh = || Box::new(Node { key, value: make(), next: Self::default() });
            let node = place.0.get_or_init(fresh);
            if node.key == key {
                return &node.value;
            }
            place = &node.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once() {
        let few = Few::default();
        assert_eq!(few.get("a", || 1), &1);
        assert_eq!(few.get("b", || 2), &2);
        assert_eq!((few.get("a", || 3), few.get("b", || 4)), (&1, &2));
    }

    #[test]
    fn threads_that_come_at_once_get_the_same() {
        let few = Few::default();
        let value = |key: usize| std::ptr::from_ref(few.get(key, || key)).addr();
        let all = || (0..50).map(value).collect::<Vec<_>>();
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(all)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
        });
        assert!(found.iter().all(|addresses| *addresses == found[0]));
    }
}
