//! A read-only table looked up by a few texts.

/// Sorted rows, found by binary search; a key may live shorter than the table.
#[derive(Debug)]
pub(crate) struct Index<const N: usize, V>(Vec<([&'static str; N], V)>);

impl<const N: usize, V> Index<N, V> {
    /// The value under `key`.
    pub(crate) fn get(&self, key: [&str; N]) -> Option<&V> {
        let found = self.0.binary_search_by(|(row, _)| row.as_slice().cmp(key.as_slice()));
        found.ok().map(|i| &self.0[i].1)
    }
}

impl<const N: usize, V> FromIterator<([&'static str; N], V)> for Index<N, V> {
    fn from_iter<I: IntoIterator<Item = ([&'static str; N], V)>>(rows: I) -> Self {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|row| row.0);
        Index(rows)
    }
}
