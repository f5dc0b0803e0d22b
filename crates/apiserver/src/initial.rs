//! What there was when a watch began: read a page at a time as the client takes it, and written once for all who are at
//! the same place and watch alike, so that a thousand who begin at once hold neither a list nor a text each.

use std::sync::Arc;

use api_types::status::Status;
use bytes::Bytes;
use mvcc::{KeyRange, KeyValue, MvccError, RangeRequest};
use parking_lot::Mutex;

use crate::api::Api;
use crate::encode::{Form, Writer};
use crate::newest::Newest;
use crate::select::Selection;
use crate::storage::{self, View};

/// Objects that are read at a time.
const PAGE: i64 = 128;
/// Bytes of a piece, but for its last object.
pub(crate) const PIECE_BYTES: usize = 56 << 10;
/// Bytes of pieces that are kept for others, at most.
const SHARED_BYTES: usize = 16 << 20;

/// What a watch is still to be told of what there was.
#[derive(Default)]
pub(crate) struct Initial {
    page: std::vec::IntoIter<KeyValue>,
    /// Where it goes on; none at the end.
    rest: Option<(Arc<View>, KeyRange)>,
    reader: Option<Reader>,
}

impl Initial {
    /// Everything in a range of a view.
    pub fn of(api: &Api, view: &Arc<View>, range: &KeyRange) -> Self {
        let rest = Some((view.clone(), range.clone()));
        Self { page: Vec::new().into_iter(), rest, reader: Some(api.pieces.read()) }
    }

    /// Reads on until there is something to give, or nothing more.
    ///
    /// # Errors
    /// 410 when what was there has been compacted meanwhile.
    pub async fn fill(&mut self, api: &Api, selection: &Selection) -> Result<(), Status> {
        while self.page.len() == 0 {
            let Some((view, range)) = self.rest.take() else {
                self.reader = None;
                return Ok(());
            };
            let request = RangeRequest { limit: PAGE, ..RangeRequest::new(range) };
            let answer = view.range(&request).map_err(|error| match error {
                MvccError::Compacted { .. } => Status::expired("too old resource version"),
                error => storage::unreadable(&error),
            })?;
            let mut page = answer.kvs;
            if let (true, Some(last)) = (answer.more, page.last()) {
                self.rest = Some((view, request.range.behind(&last.key)));
            }
            page.retain(|kv| selection.matches(kv));
            api.sift(selection, &mut page).await?;
            self.page = page.into_iter();
        }
        Ok(())
    }

    /// Bytes of the values that were read and not given yet.
    pub fn bytes(&self) -> usize {
        self.page.as_slice().iter().map(|kv| kv.value.len()).sum()
    }

    /// The next object of those that were read.
    pub fn next(&mut self) -> Option<KeyValue> {
        self.page.next()
    }

    /// What others were sent at this place, which is then behind this one too.
    pub fn take_shared(&mut self, writer: &Writer) -> Option<Arc<Piece>> {
        let key = PieceKey { first: self.page.as_slice().first()?.key.clone(), form: writer.form()? };
        let piece = self.reader.as_ref()?.0.find(&key).filter(|piece| piece.is_of(self.page.as_slice()))?;
        self.page.by_ref().take(piece.objects.len()).for_each(drop);
        Some(piece)
    }

    /// Keeps a piece for those who come to the same place.
    pub fn share(&self, writer: &Writer, piece: &Arc<Piece>) {
        // A copy: the key shares its memory with the value.
        let first = piece.first().map(Bytes::copy_from_slice);
        if let (Some(reader), Some(first), Some(form)) = (&self.reader, first, writer.form()) {
            reader.0.keep(PieceKey { first, form }, piece);
        }
    }
}

/// Some events in a row, as they are sent.
#[derive(Default)]
pub(crate) struct Piece {
    pub bytes: Bytes,
    /// The objects, to tell whether others have the same to be told.
    objects: Vec<Told>,
    /// Their keys in a row.
    keys: Vec<u8>,
}

/// An object of a piece.
struct Told {
    key_len: usize,
    revision: i64,
    /// Bytes that it was written in.
    size: usize,
}

impl Piece {
    /// Notes that an object, written in so many bytes, is the next of the piece.
    pub fn add(&mut self, kv: &KeyValue, size: usize) {
        self.objects.push(Told { key_len: kv.key.len(), revision: kv.mod_revision, size });
        self.keys.extend_from_slice(&kv.key);
    }

    /// Bytes that each object was written in.
    pub fn sizes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.objects.iter().map(|told| told.size)
    }

    fn first(&self) -> Option<&[u8]> {
        self.objects.first().map(|told| &self.keys[..told.key_len])
    }

    /// Whether these objects begin with those of the piece: a key at a revision never has another value.
    fn is_of(&self, page: &[KeyValue]) -> bool {
        let mut keys = self.keys.as_slice();
        self.objects.len() <= page.len()
            && self.objects.iter().zip(page).all(|(told, kv)| {
                let (key, rest) = keys.split_at(told.key_len);
                keys = rest;
                told.revision == kv.mod_revision && key == kv.key
            })
    }
}

/// Where a piece begins, and how it is written.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PieceKey {
    first: Bytes,
    form: Form,
}

/// The newest pieces, as long as anybody is being told of what there was.
#[derive(Default)]
pub(crate) struct Pieces(Mutex<PiecesState>);

#[derive(Default)]
struct PiecesState {
    readers: usize,
    newest: Newest<PieceKey, Arc<Piece>, { usize::MAX }, SHARED_BYTES>,
}

/// One who is being told.
struct Reader(Arc<Pieces>);

impl Pieces {
    fn read(self: &Arc<Self>) -> Reader {
        self.0.lock().readers += 1;
        Reader(self.clone())
    }

    fn find(&self, key: &PieceKey) -> Option<Arc<Piece>> {
        self.0.lock().newest.get(key)
    }

    fn keep(&self, key: PieceKey, piece: &Arc<Piece>) {
        let mut state = self.0.lock();
        if state.readers > 1 {
            state.newest.put(key, piece.clone(), piece.bytes.len());
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.readers -= 1;
        if state.readers == 0 {
            *state = PiecesState::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::Text;

    use super::*;
    use crate::negotiate::{Format, Shape};

    fn objects(numbers: std::ops::Range<i64>) -> Vec<KeyValue> {
        let object = |number: i64| KeyValue {
            key: format!("/registry/pods/{number:03}").into(),
            mod_revision: number,
            ..KeyValue::default()
        };
        numbers.map(object).collect()
    }

    fn piece(objects: &[KeyValue], len: usize) -> Arc<Piece> {
        let mut piece = Piece { bytes: vec![0; len].into(), ..Piece::default() };
        objects.iter().for_each(|kv| piece.add(kv, 1));
        Arc::new(piece)
    }

    fn key(first: &KeyValue) -> PieceKey {
        let (group, version) = (Text::Static(""), Text::Static("v1"));
        let (format, shape) = (Format::Protobuf, Shape::Object);
        let form = Form { format, shape, group, version, definition: 0 };
        PieceKey { first: first.key.clone(), form }
    }

    #[test]
    fn a_piece_is_of_the_same_objects_only() {
        let all = objects(0..9);
        let piece = piece(&all[..3], 1);
        assert!(piece.is_of(&all) && piece.is_of(&all[..3]));
        assert!(!piece.is_of(&all[..2]), "there are not so many");
        assert!(!piece.is_of(&all[1..]), "it begins elsewhere");
        let mut changed = all.clone();
        changed[2].mod_revision += 1;
        assert!(!piece.is_of(&changed));
        let mut between = all.clone();
        between.remove(1);
        assert!(!piece.is_of(&between));
        let mut renamed = all;
        renamed[1].key = "/registry/pods/0010".into();
        assert!(!piece.is_of(&renamed));
    }

    #[test]
    fn pieces_are_kept_while_several_read_and_the_oldest_goes() {
        let pieces = Arc::new(Pieces::default());
        let all = objects(0..3);
        let (small, half) = (piece(&all[..1], 1), piece(&all[..1], SHARED_BYTES / 2));
        let found = |at: usize| pieces.find(&key(&all[at])).is_some();
        let first = pieces.read();
        pieces.keep(key(&all[0]), &small);
        assert!(!found(0), "there is nobody else");
        let second = pieces.read();
        pieces.keep(key(&all[0]), &small);
        assert!(found(0));
        (0..3).for_each(|at| pieces.keep(key(&all[at]), &half));
        assert_eq!([found(0), found(1), found(2)], [false, true, true]);
        drop(first);
        assert!(found(2));
        drop(second);
        assert!(!found(2), "nobody reads any more");
    }
}
