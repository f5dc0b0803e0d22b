//! A read-only table looked up by a few texts.

use std::collections::HashMap;

/// Rows by the last of their texts, which tells most of them apart; a key may live shorter than the table.
#[derive(Debug)]
pub(crate) struct Index<const N: usize, V>(HashMap<&'static str, Vec<([&'static str; N], V)>>);

impl<const N: usize, V> Index<N, V> {
    /// The value under `key`.
    pub(crate) fn get(&self, key: [&str; N]) -> Option<&V> {
        let rows = self.0.get(key[N - 1])?;
        rows.iter().find(|(row, _)| *row == key).map(|(_, value)| value)
    }
}

impl<const N: usize, V> FromIterator<([&'static str; N], V)> for Index<N, V> {
    fn from_iter<I: IntoIterator<Item = ([&'static str; N], V)>>(rows: I) -> Self {
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for (texts, value) in rows {
            index.entry(texts[N - 1]).or_default().push((texts, value));
        }
        Index(index)
    }
}
