//! Which sequence numbers were seen, and how often.

/// A set of sequence numbers that counts those that come twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    words: Vec<u64>,
    repeated: u64,
}

impl Seen {
    /// Notes a number.
    pub fn note(&mut self, number: u64) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            self.repeated += u64::from(*word & bit != 0);
            *word |= bit;
        }
    }

    /// Adds what another worker saw. A number that both saw is repeated.
    pub fn merge(&mut self, other: &Self) {
        self.repeated += other.repeated;
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            self.repeated += u64::from((*mine & theirs).count_ones());
            *mine |= theirs;
        }
    }

    /// How often a number came again.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Different numbers.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Numbers from `first` to before `end` that were not seen.
    pub fn missing(&self, first: u64, end: u64) -> u64 {
        let seen = |number: u64| {
            self.words.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
        };
        (first..end).filter(|&number| !seen(number)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: impl IntoIterator<Item = u64>) -> Seen {
        let mut seen = Seen::default();
        numbers.into_iter().for_each(|number| seen.note(number));
        seen
    }

    #[test]
    fn all_once_is_neither_repeated_nor_missing() {
        let mut left = seen((1..1000).step_by(2));
        left.merge(&seen((2..1000).step_by(2)));
        assert_eq!((left.repeated(), left.missing(1, 1000), left.len()), (0, 0, 999));
    }

    #[test]
    fn a_number_that_one_worker_or_two_saw_twice_is_found() {
        assert_eq!(seen([5, 6, 5]).repeated(), 1);
        assert_eq!(seen([5, 5, 5]).repeated(), 2);
        let mut both = seen([63, 64, 65]);
        both.merge(&seen([65, 500]));
        assert_eq!((both.repeated(), both.len()), (1, 4));
        both.merge(&seen([7, 7]));
        assert_eq!(both.repeated(), 2);
    }

    #[test]
    fn numbers_that_never_came_are_counted() {
        assert_eq!(seen([1, 2, 4, 70]).missing(1, 5), 1);
        assert_eq!(seen([1, 2, 4, 70]).missing(1, 71), 66);
        assert_eq!(Seen::default().missing(0, 3), 3);
    }
}
