//! Answers to range requests: what the index says first, then the values, read together.

use bytes::Bytes;

use crate::tree::{Entry, Place};
use crate::types::{
    KeyRange, KeyValue, MvccError, RangeRequest, RangeResponse, Revision, SortOrder, SortTarget,
};
use crate::values::{Extent, Source};
use crate::view::{State, View, decode};

/// Keys that [`Pages`] reads at first; each page is twice as long as the one before.
const FIRST_PAGE_KEYS: usize = 64;
/// Keys that it reads at a time, at most.
const PAGE_KEYS: usize = 1024;
/// Bytes of values that it reads at a time, but for the last value.
const PAGE_BYTES: usize = 1 << 20;

/// A key that an answer may hold.
struct Found<'a> {
    key: &'a [u8],
    entry: Entry,
}

/// Asked with the bytes of keys and values that an answer is made of, before any value is read; whether it may be made.
pub(crate) type Admit<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Bytes of a key beside its name and its value, about.
const KEY_BYTES: u64 = 64;

/// Answers a range request whose revision was checked, if `admit` says so.
pub(crate) fn range(
    state: &State,
    source: Source<'_>,
    request: &RangeRequest,
    admit: Admit<'_>,
) -> Result<RangeResponse, MvccError> {
    let past = (request.revision > 0 && request.revision < state.revision).then_some(request.revision);
    let count = count(state, source, &request.range, past)?;
    let answer = RangeResponse { kvs: Vec::new(), more: false, count, revision: state.revision };
    if request.count_only {
        return Ok(answer);
    }
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
    let whole = request.filters() || request.sorts();
    let mut found = find(state, source, request, past, if whole { usize::MAX } else { limit })?;
    let mut more = usize::try_from(count).is_ok_and(|count| count > found.len());
    let by_value = request.sort_target == SortTarget::Value;
    if whole {
        more = found.len() > limit;
        if !by_value {
            sort(request, &mut found);
            found.truncate(limit);
        }
    }
    let with_values = !request.keys_only || by_value;
    let bytes = found.iter().map(|found| found.bytes(with_values)).sum();
    if !admit(bytes) {
        return Err(MvccError::TooMuch { bytes });
    }
    let mut kvs =
        if !with_values { found.iter().map(Found::without_value).collect() } else { read(source, &found)? };
    if by_value {
        request.sort(&mut kvs);
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
    }
    Ok(RangeResponse { kvs, more, ..answer })
}

/// About how many bytes of keys and values there are in a range, of at most `limit` keys.
pub(crate) fn bytes(state: &State, range: &KeyRange, limit: i64, with_values: bool) -> u64 {
    let limit = usize::try_from(limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
    let live = state.index.range(range).filter(|(_, entry)| entry.is_live()).take(limit);
    live.map(|(key, entry)| Found { key, entry: *entry }.bytes(with_values)).sum()
}

/// Keys of a range as they were at `revision`, at most `limit`, without counting the others.
pub(crate) fn page(
    state: &State,
    source: Source<'_>,
    range: &KeyRange,
    revision: Revision,
    limit: usize,
) -> Result<Vec<KeyValue>, MvccError> {
    let past = (revision < state.revision).then_some(revision);
    let request = RangeRequest::new(range.clone());
    read(source, &find(state, source, &request, past, limit)?)
}

fn count(
    state: &State,
    source: Source<'_>,
    range: &KeyRange,
    past: Option<Revision>,
) -> Result<i64, MvccError> {
    let count = match past {
        None => state.index.count(range),
        Some(revision) => {
            state.index.count_at(range, revision, &mut |entry| source.was_there(entry, revision))?
        }
    };
    Ok(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The first `wanted` keys that pass the filters, in key order.
fn find<'a>(
    state: &'a State,
    source: Source<'_>,
    request: &RangeRequest,
    past: Option<Revision>,
    wanted: usize,
) -> Result<Vec<Found<'a>>, MvccError> {
    let mut found = Vec::new();
    for (key, entry) in state.index.range(&request.range) {
        if found.len() >= wanted {
            break;
        }
        let entry = match past {
            Some(revision) => source.at(entry, revision)?,
            None => Some(*entry).filter(Entry::is_live),
        };
        if let Some(entry) = entry
            && passes(request, &entry)
        {
            found.push(Found { key, entry });
        }
    }
    Ok(found)
}

fn passes(request: &RangeRequest, entry: &Entry) -> bool {
    let within = |value: Revision, min: Revision, max: Revision| {
        (min == 0 || value >= min) && (max == 0 || value <= max)
    };
    within(entry.main, request.min_mod_revision, request.max_mod_revision)
        && within(entry.create, request.min_create_revision, request.max_create_revision)
}

/// As [`RangeRequest::sort`], by what the index knows.
fn sort(request: &RangeRequest, found: &mut [Found<'_>]) {
    let order = |a: &Found<'_>, b: &Found<'_>| match request.sort_target {
        SortTarget::Version => a.entry.version().cmp(&b.entry.version()),
        SortTarget::Create => a.entry.create.cmp(&b.entry.create),
        SortTarget::Mod => a.entry.main.cmp(&b.entry.main),
        SortTarget::Key | SortTarget::Value => a.key.cmp(b.key),
    };
    if request.sort_order == SortOrder::Descend {
        found.sort_by(|a, b| order(b, a));
    } else {
        found.sort_by(order);
    }
}

impl Found<'_> {
    fn bytes(&self, with_value: bool) -> u64 {
        let value = if with_value { self.entry.value_len } else { 0 };
        KEY_BYTES + self.key.len() as u64 + u64::from(value)
    }

    fn without_value(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::new(),
            create_revision: self.entry.create,
            mod_revision: self.entry.main,
            version: self.entry.version(),
            lease: self.entry.lease,
        }
    }
}

fn read(source: Source<'_>, found: &[Found<'_>]) -> Result<Vec<KeyValue>, MvccError> {
    let places: Vec<Place> = found.iter().map(|found| found.entry.place()).collect();
    let mut kvs = vec![KeyValue::default(); places.len()];
    source.read(&places, Extent::Piece, &mut |number, read| {
        kvs[number] = decode(places[number], &read.to_bytes())?;
        Ok(())
    })?;
    Ok(kvs)
}

/// Current values of a range, page by page.
pub(crate) struct Pages<'a> {
    view: &'a View,
    keys: crate::tree::Iter<'a>,
    page: std::vec::IntoIter<KeyValue>,
    size: usize,
}

impl<'a> Pages<'a> {
    pub fn new(view: &'a View, range: KeyRange) -> Self {
        Self {
            view,
            keys: view.state.index.range(&range),
            page: Vec::new().into_iter(),
            size: FIRST_PAGE_KEYS,
        }
    }

    fn turn(&mut self) -> Result<(), MvccError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < self.size && bytes < PAGE_BYTES {
            let Some((key, entry)) = self.keys.next() else { break };
            if entry.is_live() {
                bytes += entry.value_len as usize;
                found.push(Found { key, entry: *entry });
            }
        }
        self.size = (self.size * 2).min(PAGE_KEYS);
        self.page = read(self.view.source(), &found)?.into_iter();
        Ok(())
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<KeyValue, MvccError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0
            && let Err(error) = self.turn()
        {
            self.keys =
                self.view.state.index.range(&KeyRange::Interval { start: Bytes::new(), end: Bytes::new() });
            return Some(Err(error));
        }
        self.page.next().map(Ok)
    }
}
