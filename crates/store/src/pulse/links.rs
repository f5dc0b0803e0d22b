//! Who is in touch with whom, and what follows from it. Pure: time arrives with every call.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protos::peer;
use tokio::time::Instant;

use crate::config::Timing;
use crate::consensus::Metrics;
use crate::disk::SLOW;
use crate::members::quorum;

/// How many of the largest silences are remembered, each for [`REMEMBERED`].
const WINDOWS: usize = 3;
/// A log may wait for its disk for so long at least, whatever the times of the consensus.
const STUCK: Duration = Duration::from_secs(2);
/// How long a silence that ended makes this member more patient; three times, in steps.
const REMEMBERED: Duration = Duration::from_secs(20);

/// The times of the pulse, which follow from those of the consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// Between two beats.
    pub beat: Duration,
    /// The silence after which a member counts as lost, where silences are short.
    pub patience: Duration,
    /// The same at most, however long silences were that ended.
    pub most: Duration,
    /// For how long a leader's log may wait for its disk.
    pub stuck: Duration,
}

impl Rhythm {
    pub fn of(timing: &Timing) -> Self {
        let beat = (timing.heartbeat / 5).max(Duration::from_millis(5));
        Self {
            beat,
            patience: timing.election_min * 3 / 10,
            most: timing.election_min,
            stuck: (2 * timing.election_max).max(STUCK),
        }
    }
}

/// What a member says of itself with every beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// The term that it knows, and who leads it.
    pub term: u64,
    pub leader: u64,
    /// Whether it is out of touch with that leader.
    pub lost: bool,
    /// The last entry of its log.
    pub last_index: u64,
    /// How long its log's syncs take, in microseconds.
    pub sync_micros: u64,
    /// For how long its log has been waiting for the disk, in microseconds.
    pub stuck_micros: u64,
}

impl Word {
    pub fn to_wire(self, number: u64) -> peer::Pulse {
        let Self { term, leader, lost, last_index, sync_micros, stuck_micros } = self;
        peer::Pulse { number, term, leader, lost, last_index, sync_micros, stuck_micros }
    }

    /// What the successors of a leader are ordered by: whoever has a quick disk and the longer log is the better one.
    fn merit(&self, id: u64) -> (bool, Reverse<u64>, u64) {
        (Duration::from_micros(self.sync_micros) > SLOW, Reverse(self.last_index), id)
    }

    pub fn from_wire(wire: &peer::Pulse) -> Self {
        Self {
            term: wire.term,
            leader: wire.leader,
            lost: wire.lost,
            last_index: wire.last_index,
            sync_micros: wire.sync_micros,
            stuck_micros: wire.stuck_micros,
        }
    }
}

/// One other member.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// When it last answered a beat of ours, over the connection that we opened.
    answered: Instant,
    /// When it last beat, over the connection that it opened.
    beat: Instant,
    /// The newest of our beats that it answered.
    number: u64,
    /// How many of its beats were heard.
    heard: u64,
    /// Whether both ways have worked since this process began.
    established: bool,
    answers: bool,
    beats: bool,
    word: Word,
}

/// What this member makes of it all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is wrong, or nobody leads.
    #[default]
    Calm,
    /// The leader is out of touch with this member, but not with a quorum.
    Alone,
    /// The leader of this term is out of touch with a quorum; so many of them come before this member as its successor.
    Lost { leader: u64, term: u64, rank: u32 },
    /// This member leads and is out of touch with a quorum.
    Deserted,
}

/// What had been said and heard at some moment: what is in touch since then says and hears more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark {
    number: u64,
    heard: BTreeMap<u64, u64>,
}

/// All links of a member.
#[derive(Debug)]
pub(crate) struct Links {
    me: u64,
    rhythm: Rhythm,
    links: BTreeMap<u64, Link>,
    last_beat: Option<Instant>,
    /// The longest silences that ended, of the present window and those before.
    silences: [Duration; WINDOWS],
    window_since: Option<Instant>,
}

/// What the consensus says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub voters: BTreeSet<u64>,
    pub leader: Option<u64>,
    pub term: u64,
}

impl Standing {
    pub fn of(metrics: &Metrics) -> Self {
        Self {
            voters: metrics.membership_config.membership().voter_ids().collect(),
            leader: metrics.current_leader,
            term: metrics.current_term,
        }
    }
}

impl Links {
    pub fn new(me: u64, rhythm: Rhythm) -> Self {
        Self {
            me,
            rhythm,
            links: BTreeMap::new(),
            last_beat: None,
            silences: [Duration::ZERO; WINDOWS],
            window_since: None,
        }
    }

    /// Notes a beat of this member. One that comes late says that this member did not run: silences of the others that
    /// fall into that time mean nothing.
    pub fn beat(&mut self, now: Instant) {
        let since = self.last_beat.replace(now).map_or(self.rhythm.beat, |last| now - last);
        let late = since.saturating_sub(self.rhythm.beat);
        if late > self.rhythm.beat / 2 {
            for link in self.links.values_mut() {
                link.answered = (link.answered + late).min(now);
                link.beat = (link.beat + late).min(now);
            }
        }
        if self.window_since.is_none_or(|since| now - since > REMEMBERED) {
            self.silences.rotate_right(1);
            self.silences[0] = Duration::ZERO;
            self.window_since = Some(now);
        }
    }

    /// A member answered one of our beats. `first` is the first answer of a connection.
    pub fn answered(&mut self, from: u64, number: u64, word: Word, first: bool, now: Instant) {
        let link = self.link(from, now);
        if link.answers && number <= link.number {
            return;
        }
        let silence = now - link.answered;
        (link.number, link.answered, link.answers, link.word) = (number, now, true, word);
        link.established |= link.beats;
        if !first {
            self.note_silence(silence);
        }
    }

    /// A member beat. `first` is the first beat of a connection.
    pub fn heard(&mut self, from: u64, word: Word, first: bool, now: Instant) {
        let link = self.link(from, now);
        let silence = now - link.beat;
        (link.beat, link.beats, link.word) = (now, true, word);
        link.heard += 1;
        link.established |= link.answers;
        if !first {
            self.note_silence(silence);
        }
    }

    /// Forgets who is no member any more.
    pub fn retain(&mut self, members: &BTreeSet<u64>) {
        self.links.retain(|id, _| members.contains(id));
    }

    fn link(&mut self, id: u64, now: Instant) -> &mut Link {
        self.links.entry(id).or_insert_with(|| Link {
            answered: now,
            beat: now,
            number: 0,
            heard: 0,
            established: false,
            answers: false,
            beats: false,
            word: Word::default(),
        })
    }

    /// Silences that end by themselves are jitter. Longer ones were faults, and those between two connections too: they
    /// teach nothing.
    fn note_silence(&mut self, silence: Duration) {
        if silence < self.rhythm.most {
            self.silences[0] = self.silences[0].max(silence);
        }
    }

    /// The silence after which a member counts as lost: twice the longest of late.
    pub fn patience(&self) -> Duration {
        let longest = self.silences.iter().max().copied().unwrap_or_default();
        (longest * 2).clamp(self.rhythm.patience, self.rhythm.most)
    }

    /// Whether this member and another one hear each other over the connections that each of them opened. One with
    /// which this was never so is not judged: it may be of a version that does not beat.
    pub fn in_touch(&self, id: u64, now: Instant) -> bool {
        let patience = self.patience();
        self.links.get(&id).is_none_or(|link| {
            !link.established || (now - link.answered <= patience && now - link.beat <= patience)
        })
    }

    /// This moment, in which beat `number` is the last that was sent.
    pub fn mark(&self, number: u64) -> Mark {
        Mark { number, heard: self.links.iter().map(|(id, link)| (*id, link.heard)).collect() }
    }

    /// Whether this member and a quorum of the voters have heard each other since. One beat may have been under way. A
    /// voter that was never in touch has not been met.
    pub fn met_since(&self, mark: &Mark, voters: &BTreeSet<u64>) -> bool {
        let met = |id: &&u64| {
            let before = mark.heard.get(id).copied().unwrap_or_default();
            let met = |link: &Link| link.number > mark.number && link.heard > before + 1;
            **id == self.me || self.links.get(id).is_some_and(met)
        };
        voters.iter().filter(met).count() >= quorum(voters.len())
    }

    /// For how long a member has been out of touch; nothing if that was never judged.
    pub fn silence_of(&self, id: u64, now: Instant) -> Duration {
        let link = self.links.get(&id).filter(|link| link.established);
        link.map_or(Duration::ZERO, |link| (now - link.answered).max(now - link.beat))
    }

    /// The term and the leader on which a quorum agrees, this member's own word included, if this member is in touch with
    /// that leader: what is known although the consensus of this member is busy.
    pub fn agreed(&self, standing: &Standing, now: Instant) -> Option<(u64, u64)> {
        let own = (standing.term, standing.leader.unwrap_or(0));
        let said = |id: &u64| match *id == self.me {
            true => Some(own),
            false => self.word(*id, now).filter(|word| !word.lost).map(|word| (word.term, word.leader)),
        };
        let said: Vec<_> = standing.voters.iter().filter_map(said).collect();
        let newest = said.iter().copied().filter(|(_, leader)| *leader != 0).max()?;
        let agree = said.iter().filter(|word| **word == newest).count();
        let near = newest.1 == self.me || self.in_touch(newest.1, now);
        (near && newest.0 >= standing.term && agree >= quorum(standing.voters.len())).then_some(newest)
    }

    /// What a member said last, if it is in touch.
    pub fn word(&self, id: u64, now: Instant) -> Option<Word> {
        let link = self.links.get(&id)?;
        (link.established && self.in_touch(id, now)).then_some(link.word)
    }

    /// Whether another member's log has been waiting for its disk for too long while this one's has not: members may
    /// share a disk.
    fn is_stuck(&self, id: u64, own: Duration) -> bool {
        let theirs = self.links.get(&id).map_or(0, |link| link.word.stuck_micros);
        own < SLOW && Duration::from_micros(theirs) > self.rhythm.stuck
    }

    /// Whether this member, whose own log has waited for so long, would agree that its leader is lost. A witness need not
    /// be as patient as whoever suspects.
    pub fn has_lost(&self, standing: &Standing, own: Duration, now: Instant) -> bool {
        let lost = |leader| self.silence_of(leader, now) > self.rhythm.patience || self.is_stuck(leader, own);
        standing.leader.is_some_and(|leader| leader != self.me && lost(leader))
    }

    /// What is to be made of it.
    pub fn verdict(&self, standing: &Standing, me: &Word, now: Instant) -> Verdict {
        let Some(leader) = standing.leader else { return Verdict::Calm };
        let quorum = quorum(standing.voters.len());
        if leader == self.me {
            let with_me = standing.voters.iter().filter(|id| **id == self.me || self.in_touch(**id, now));
            return if with_me.count() < quorum { Verdict::Deserted } else { Verdict::Calm };
        }
        if self.in_touch(leader, now) && !self.is_stuck(leader, Duration::from_micros(me.stuck_micros)) {
            return Verdict::Calm;
        }
        let witnesses: Vec<(u64, Word)> = standing
            .voters
            .iter()
            .filter(|id| **id != self.me && **id != leader)
            .filter_map(|id| Some((*id, self.word(*id, now)?)))
            .filter(|(_, word)| word.lost && word.term == standing.term && word.leader == leader)
            .collect();
        if !standing.voters.contains(&self.me) || witnesses.len() + 1 < quorum {
            return Verdict::Alone;
        }
        let before = |(id, word): &&(u64, Word)| word.merit(*id) < me.merit(self.me);
        let rank = u32::try_from(witnesses.iter().filter(before).count()).unwrap_or(u32::MAX);
        Verdict::Lost { leader, term: standing.term, rank }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Three members' links to each other, in steps of a beat.
    struct Three {
        now: Instant,
        links: [Links; 3],
        number: u64,
        /// What does not pass: from, to.
        cut: Vec<(u64, u64)>,
        asleep: Vec<u64>,
        /// Whose logs wait for their disks.
        stuck: Vec<u64>,
    }

    impl Three {
        fn new() -> Self {
            let rhythm = Rhythm::of(&Timing::default());
            let links = [1, 2, 3].map(|id| Links::new(id, rhythm));
            let now = env::Env::real().clock.monotonic();
            let mut three =
                Self { now, links, number: 0, cut: Vec::new(), asleep: Vec::new(), stuck: Vec::new() };
            three.run(200);
            three
        }

        fn standing() -> Standing {
            Standing { voters: [1, 2, 3].into(), leader: Some(1), term: 7 }
        }

        fn word(last_index: u64, sync_micros: u64) -> Word {
            Word { term: 7, leader: 1, lost: true, last_index, sync_micros, stuck_micros: 0 }
        }

        fn verdict(&self, id: usize) -> Verdict {
            self.links[id - 1].verdict(&Self::standing(), &Self::word(10, 0), self.now)
        }

        fn run(&mut self, millis: u64) {
            for _ in 0..millis / 20 {
                self.now += 20 * MS;
                self.number += 1;
                for from in 1..=3_u64 {
                    if !self.asleep.contains(&from) {
                        self.beat(from);
                    }
                }
            }
        }

        fn beat(&mut self, from: u64) {
            let now = self.now;
            let standing = Self::standing();
            let word = |links: &Links| {
                let stuck = if self.stuck.contains(&links.me) { 3_000_000 } else { 0 };
                let lost = links.has_lost(&standing, Duration::from_micros(stuck), now);
                Word { term: 7, leader: 1, lost, last_index: 10, sync_micros: stuck, stuck_micros: stuck }
            };
            self.links[from as usize - 1].beat(now);
            for to in (1..=3).filter(|to| *to != from) {
                if self.cut.contains(&(from, to)) || self.asleep.contains(&to) {
                    continue;
                }
                let said = word(&self.links[from as usize - 1]);
                self.links[to as usize - 1].heard(from, said, false, now);
                if !self.cut.contains(&(to, from)) {
                    let said = word(&self.links[to as usize - 1]);
                    self.links[from as usize - 1].answered(to, self.number, said, false, now);
                }
            }
        }
    }

    #[test]
    fn nothing_is_wrong_while_all_beat() {
        let mut three = Three::new();
        three.run(60_000);
        assert_eq!([1, 2, 3].map(|id| three.verdict(id)), [Verdict::Calm; 3]);
    }

    /// Frozen, cut off, deaf and mute: each is noticed by both sides in time, and the followers agree who is first.
    #[test]
    fn a_leader_that_is_out_of_touch_is_lost_within_a_fifth_of_a_second() {
        let deaf = vec![(2, 1), (3, 1)];
        let mute = vec![(1, 2), (1, 3)];
        for cut in [deaf.clone(), mute.clone(), [deaf, mute].concat()] {
            let mut three = Three::new();
            three.cut = cut;
            three.run(100);
            assert_eq!([1, 2, 3].map(|id| three.verdict(id)), [Verdict::Calm; 3], "too early");
            three.run(80);
            assert_eq!(three.verdict(1), Verdict::Deserted);
            assert_eq!(three.verdict(2), Verdict::Lost { leader: 1, term: 7, rank: 0 });
            assert_eq!(three.verdict(3), Verdict::Lost { leader: 1, term: 7, rank: 1 });
        }
    }

    #[test]
    fn who_was_cut_off_has_met_nobody_since() {
        let voters = Three::standing().voters;
        for cut in [vec![(2, 1), (3, 1)], vec![(1, 2), (1, 3)]] {
            let mut three = Three::new();
            let mark = |three: &Three| three.links[0].mark(three.number);
            let before = mark(&three);
            assert!(!three.links[0].met_since(&before, &voters), "nothing was said since");
            three.run(40);
            assert!(three.links[0].met_since(&before, &voters));
            three.cut = cut;
            let after = mark(&three);
            three.run(1_000);
            assert!(!three.links[0].met_since(&after, &voters));
            three.cut = vec![(2, 1)];
            three.run(40);
            assert!(three.links[0].met_since(&after, &voters), "two of three are a quorum");
        }
        let new = Links::new(1, Rhythm::of(&Timing::default()));
        assert!(!new.met_since(&new.mark(0), &voters), "never in touch");
        assert!(new.met_since(&new.mark(0), &[1].into()), "alone");
    }

    #[test]
    fn what_a_quorum_says_of_the_leader_is_known_to_a_member_whose_consensus_is_busy() {
        let mut three = Three::new();
        let agreed = |three: &Three, standing: &Standing| three.links[0].agreed(standing, three.now);
        let standing = Three::standing();
        assert_eq!(agreed(&three, &standing), Some((7, 1)), "they still follow it");
        let next = Word { term: 8, leader: 2, ..Word::default() };
        three.links[0].heard(2, next, false, three.now);
        assert_eq!(agreed(&three, &standing), None, "one of three");
        three.links[0].heard(3, next, false, three.now);
        assert_eq!(agreed(&three, &standing), Some((8, 2)));
        assert_eq!(agreed(&three, &Standing { term: 9, ..standing.clone() }), None, "an old term");
        three.now += 1_000 * MS;
        assert_eq!(agreed(&three, &standing), None, "out of touch");
    }

    #[test]
    fn one_witness_alone_elects_nobody() {
        let mut three = Three::new();
        three.cut = vec![(1, 2), (2, 1)];
        three.run(1_000);
        assert_eq!([1, 2, 3].map(|id| three.verdict(id)), [Verdict::Calm, Verdict::Alone, Verdict::Calm]);
    }

    #[test]
    fn who_did_not_run_itself_suspects_nobody() {
        let mut three = Three::new();
        three.asleep = vec![2];
        three.run(3_000);
        assert_eq!(three.verdict(3), Verdict::Calm);
        three.links[1].beat(three.now);
        assert_eq!(three.verdict(2), Verdict::Calm);
        three.asleep.clear();
        three.run(100);
        assert_eq!([1, 2, 3].map(|id| three.verdict(id)), [Verdict::Calm; 3]);
    }

    #[test]
    fn a_leader_that_slept_is_lost_and_knows_it_when_it_was_not_heard() {
        let mut three = Three::new();
        three.asleep = vec![1];
        three.run(200);
        assert_eq!(three.verdict(2), Verdict::Lost { leader: 1, term: 7, rank: 0 });
    }

    #[test]
    fn a_leader_whose_log_waits_for_its_disk_is_lost_to_those_whose_logs_do_not() {
        let mut three = Three::new();
        three.stuck = vec![1];
        three.run(60);
        assert_eq!(three.verdict(2), Verdict::Lost { leader: 1, term: 7, rank: 0 });
        assert_eq!(three.verdict(3), Verdict::Lost { leader: 1, term: 7, rank: 1 });
        three.stuck = vec![1, 2, 3];
        three.run(60);
        let own = Word { stuck_micros: 3_000_000, ..Three::word(10, 3_000_000) };
        let shared = three.links[1].verdict(&Three::standing(), &own, three.now);
        assert_eq!(shared, Verdict::Calm, "all have the same disk");
        three.stuck.clear();
        three.run(60);
        assert_eq!([1, 2, 3].map(|id| three.verdict(id)), [Verdict::Calm; 3]);
    }

    #[test]
    fn silences_that_end_make_patient_and_are_forgotten() {
        let mut three = Three::new();
        assert_eq!(three.links[1].patience(), 120 * MS);
        three.asleep = vec![1];
        three.run(100);
        three.asleep.clear();
        three.run(20);
        let patience = three.links[1].patience();
        assert!(patience >= 200 * MS && patience <= 280 * MS, "{patience:?}");
        three.asleep = vec![1];
        three.run(160);
        assert_eq!(three.verdict(2), Verdict::Calm);
        three.asleep.clear();
        three.run(120_000);
        assert_eq!(three.links[1].patience(), 120 * MS);
    }

    #[test]
    fn a_longer_log_comes_first_a_slow_disk_last_and_a_learner_never() {
        let mut three = Three::new();
        three.asleep = vec![1];
        three.run(200);
        let (now, standing) = (three.now, Three::standing());
        let ahead = three.links[2].verdict(&standing, &Three::word(11, 0), now);
        assert_eq!(ahead, Verdict::Lost { leader: 1, term: 7, rank: 0 });
        let slow = three.links[1].verdict(&standing, &Three::word(11, 200_000), now);
        assert_eq!(slow, Verdict::Lost { leader: 1, term: 7, rank: 1 });
        let learner = Standing { voters: [1, 2].into(), ..standing };
        assert_eq!(three.links[2].verdict(&learner, &Three::word(10, 0), now), Verdict::Alone);
    }
}
