//! Shares of a size that changes while a rollout is under way (upstream's proportional scaling).

/// A set that has pods.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size<'a> {
    /// The pods it shall have now.
    pub replicas: i64,
    /// The most pods that all sets might have when it was given its size.
    pub noted_max: Option<i64>,
    /// When it was made.
    pub created: &'a str,
}

/// The new size of each set, in the order given, so that together they have `allowed` pods. `total` is how many there
/// were, for sets that do not say.
pub(super) fn shares(sets: &[Size<'_>], allowed: i64, total: i64) -> Vec<i64> {
    let to_add = allowed - sets.iter().map(|set| set.replicas).sum::<i64>();
    let mut order: Vec<usize> = (0..sets.len()).collect();
    // The largest first; of equal ones the newer grows first and the older shrinks first.
    order.sort_by(|&a, &b| {
        let (one, other) = (&sets[a], &sets[b]);
        let age = one.created.cmp(other.created);
        other.replicas.cmp(&one.replicas).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut shares: Vec<i64> = sets.iter().map(|set| set.replicas).collect();
    let mut added = 0;
    for &place in &order {
        let change = change(&sets[place], allowed, total);
        let left = to_add - added;
        let change = if to_add > 0 { change.min(left) } else { change.max(left) };
        shares[place] += change;
        added += change;
    }
    // What rounding left over goes to the largest.
    if let Some(&largest) = order.first() {
        shares[largest] = (shares[largest] + to_add - added).max(0);
    }
    shares
}

/// By how much a set would change if only proportions counted, rounded half up.
fn change(set: &Size<'_>, allowed: i64, total: i64) -> i64 {
    if allowed == 0 {
        return -set.replicas;
    }
    let before = set.noted_max.unwrap_or(total).max(1);
    (2 * set.replicas * allowed + before) / (2 * before) - set.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sets: &[(i64, i64)], allowed: i64, expected: &[i64]) {
        let created: Vec<String> = (0..sets.len()).map(|age| format!("2026-01-0{}", age + 1)).collect();
        let size = |((replicas, max), created): (&(i64, i64), _)| Size {
            replicas: *replicas,
            noted_max: Some(*max),
            created,
        };
        let sizes: Vec<_> = sets.iter().zip(created.iter().map(String::as_str)).map(size).collect();
        assert_eq!(shares(&sizes, allowed, 0), expected, "{sets:?} to {allowed}");
    }

    #[test]
    fn sets_keep_their_proportions() {
        check(&[(5, 10), (5, 10)], 20, &[10, 10]);
        check(&[(8, 10), (2, 10)], 20, &[16, 4]);
        check(&[(8, 10), (2, 10)], 5, &[4, 1]);
        check(&[(5, 10), (5, 10)], 0, &[0, 0]);
    }

    #[test]
    fn what_rounding_leaves_goes_to_the_largest() {
        check(&[(5, 10), (3, 10), (2, 10)], 11, &[6, 3, 2]);
        check(&[(5, 10), (5, 10)], 11, &[5, 6]);
        check(&[(5, 10), (5, 10)], 9, &[4, 5]);
    }
}
