//! The state's rolling hash at fixed entries of the log, and what members' notes of it say together (pure).

use std::collections::{BTreeMap, VecDeque};

use crate::members::quorum;

/// The hash is noted after every so many entries.
pub(crate) const STRIDE: u64 = 16;
/// Notes that are kept.
const KEPT: usize = 2048;
/// Notes that are sent at once, at most: the newest of those that are asked for.
const SENT: usize = 512;

/// The hash after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub index: u64,
    pub hash: u32,
}

/// A member's notes, in order.
#[derive(Default)]
pub(crate) struct Marks(VecDeque<Mark>);

impl Marks {
    /// Whether the hash is noted after this entry.
    pub fn wants(index: u64) -> bool {
        index.is_multiple_of(STRIDE)
    }

    pub fn note(&mut self, mark: Mark) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(mark);
    }

    /// Begins anew: the state was replaced.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those after an entry.
    pub fn after(&self, index: u64) -> Vec<Mark> {
        let from = self.0.partition_point(|mark| mark.index <= index);
        self.0.range(from.max(self.0.len().saturating_sub(SENT))..).copied().collect()
    }

    pub fn at(&self, index: u64) -> Option<u32> {
        let at = self.0.binary_search_by_key(&index, |mark| mark.index).ok()?;
        Some(self.0[at].hash)
    }
}

/// Who holds what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no entry that all have noted yet.
    Nothing,
    /// All noted the same at this entry.
    Same { index: u64 },
    /// These noted something else than a majority of the voters did.
    Odd { index: u64, hash: u32, members: Vec<u64> },
    /// Members differ and no majority agrees: nobody knows who is right.
    Unknown { index: u64 },
}

/// Compares the notes of those who answered at the newest entry that all of them have noted: a hash that differs once
/// differs ever after.
pub(crate) fn judge(notes: &BTreeMap<u64, Vec<Mark>>, voters: &[u64]) -> Verdict {
    let Some(index) = newest_common(notes) else { return Verdict::Nothing };
    let at = |marks: &[Mark]| marks.iter().find(|mark| mark.index == index).map(|mark| mark.hash);
    let answers: BTreeMap<u64, u32> =
        notes.iter().filter_map(|(member, marks)| Some((*member, at(marks)?))).collect();
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, hash) in answers.iter().filter(|(member, _)| voters.contains(member)) {
        *votes.entry(*hash).or_default() += 1;
    }
    let differ = answers.values().any(|hash| Some(hash) != answers.values().next());
    match votes.into_iter().find(|(_, count)| *count >= quorum(voters.len())) {
        _ if !differ => Verdict::Same { index },
        Some((hash, _)) => {
            let members = answers.into_iter().filter(|(_, other)| *other != hash).map(|(member, _)| member);
            Verdict::Odd { index, hash, members: members.collect() }
        }
        None => Verdict::Unknown { index },
    }
}

fn newest_common(notes: &BTreeMap<u64, Vec<Mark>>) -> Option<u64> {
    let mut others = notes.values();
    let first = others.next()?;
    let has = |marks: &Vec<Mark>, index| marks.binary_search_by_key(&index, |mark| mark.index).is_ok();
    let common = |mark: &&Mark| others.clone().all(|marks| has(marks, mark.index));
    first.iter().rev().find(common).map(|mark| mark.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes of members 1, 2, …: pairs of entry and hash.
    fn notes(members: &[&[(u64, u32)]]) -> BTreeMap<u64, Vec<Mark>> {
        let marks = |pairs: &[(u64, u32)]| pairs.iter().map(|&(index, hash)| Mark { index, hash }).collect();
        (1..).zip(members.iter().map(|pairs| marks(pairs))).collect()
    }

    #[test]
    fn the_odd_one_out_of_three_is_wrong_whoever_it_is() {
        let (right, wrong): (&[_], &[_]) = (&[(16, 1), (32, 2)], &[(16, 1), (32, 9)]);
        for odd in 0..3 {
            let mut members = [right; 3];
            members[odd] = wrong;
            let expected = Verdict::Odd { index: 32, hash: 2, members: vec![odd as u64 + 1] };
            assert_eq!(judge(&notes(&members), &[1, 2, 3]), expected);
        }
        assert_eq!(judge(&notes(&[right, right, right]), &[1, 2, 3]), Verdict::Same { index: 32 });
    }

    #[test]
    fn without_a_majority_nobody_is_called_wrong() {
        let (one, other): (&[_], &[_]) = (&[(16, 1)], &[(16, 2)]);
        assert_eq!(judge(&notes(&[one, other]), &[1, 2]), Verdict::Unknown { index: 16 });
        assert_eq!(
            judge(&notes(&[one, other]), &[1, 2, 3]),
            Verdict::Unknown { index: 16 },
            "a third is away"
        );
        assert_eq!(judge(&notes(&[one, other, &[(16, 3)]]), &[1, 2, 3]), Verdict::Unknown { index: 16 });
        let learner = judge(&notes(&[one, one, other]), &[1, 2]);
        assert_eq!(learner, Verdict::Odd { index: 16, hash: 1, members: vec![3] });
        let outvoted = judge(&notes(&[one, other, other]), &[1]);
        assert_eq!(
            outvoted,
            Verdict::Odd { index: 16, hash: 1, members: vec![2, 3] },
            "learners have no say"
        );
    }

    #[test]
    fn one_that_is_behind_is_compared_where_it_is() {
        let ahead: &[_] = &[(16, 1), (32, 2), (48, 3)];
        assert_eq!(judge(&notes(&[ahead, &[(16, 1)]]), &[1, 2]), Verdict::Same { index: 16 });
        assert_eq!(judge(&notes(&[ahead, &[]]), &[1, 2]), Verdict::Nothing);
        assert_eq!(judge(&notes(&[ahead, &[(64, 4)]]), &[1, 2]), Verdict::Nothing);
        assert_eq!(judge(&BTreeMap::new(), &[]), Verdict::Nothing);
    }

    #[test]
    fn notes_are_kept_in_order_and_bounded() {
        let mut marks = Marks::default();
        for number in 1..=KEPT as u64 + 10 {
            marks.note(Mark { index: number * STRIDE, hash: number as u32 });
        }
        assert_eq!(marks.0.len(), KEPT);
        assert_eq!(marks.at(20 * STRIDE), Some(20));
        assert_eq!(marks.at(20 * STRIDE + 1), None);
        let last = KEPT as u64 + 10;
        let sent = marks.after(100 * STRIDE);
        assert_eq!((sent.len(), sent.last().map(|mark| mark.index)), (SENT, Some(last * STRIDE)));
        assert_eq!(marks.after((last - 1) * STRIDE).len(), 1);
    }
}
