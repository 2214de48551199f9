//! Welch's t-test (B. L. Welch, 1947) on two classes of times, whole and without their slowest parts.

use std::time::Duration;

/// Times of two classes, nanoseconds.
#[derive(Default)]
pub(super) struct Samples {
    classes: [Vec<f64>; 2],
}

impl Samples {
    pub(super) fn add(&mut self, class: bool, took: Duration) {
        self.classes[usize::from(class)].push(took.as_nanos() as f64);
    }

    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(Vec::len).sum()
    }

    /// The greatest |t| of all cuts: interruptions lengthen the tail, so the times below several percentiles of both
    /// classes together are compared too.
    pub(super) fn greatest_t(&self) -> f64 {
        let mut all: Vec<f64> = self.classes.iter().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        let percentiles = [100, 99, 95, 90, 75, 50];
        let t = |percentile: usize| {
            let last = all.len().saturating_sub(1);
            let at = last * percentile / 100;
            let limit = all.get(at).copied().unwrap_or(f64::INFINITY);
            let [a, b] = self
                .classes
                .each_ref()
                .map(|times| Moments::below(times, limit));
            a.t(&b).abs()
        };
        percentiles.into_iter().map(t).fold(0.0, f64::max)
    }
}

/// Number, mean and sum of squared differences from it.
#[derive(Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn below(times: &[f64], limit: f64) -> Self {
        let mut moments = Self::default();
        for time in times.iter().filter(|time| **time <= limit) {
            moments.count += 1.0;
            let difference = time - moments.mean;
            moments.mean += difference / moments.count;
            moments.squares += difference * (time - moments.mean);
        }
        moments
    }

    fn t(&self, other: &Self) -> f64 {
        let error = |of: &Self| of.squares / (of.count - 1.0).max(1.0) / of.count.max(1.0);
        let spread = (error(self) + error(other)).sqrt();
        if spread > 0.0 {
            (self.mean - other.mean) / spread
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(times: impl Iterator<Item = (bool, u64)>) -> f64 {
        let mut samples = Samples::default();
        times.for_each(|(class, nanos)| samples.add(class, Duration::from_nanos(nanos)));
        samples.greatest_t()
    }

    /// By hand: means 2 and 5, variances 1 and 1, three samples each: t = 3 / sqrt(2/3).
    #[test]
    fn a_small_one_by_hand() {
        let [a, b] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]].map(|times| Moments::below(&times, 9.0));
        let t = a.t(&b);
        assert!((t + 3.0 / (2.0_f64 / 3.0).sqrt()).abs() < 1e-12, "{t}");
    }

    #[test]
    fn what_differs_is_found_and_what_does_not_is_not() {
        let noise = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
        let same = samples((0..20_000).map(|n| (noise(n) & 1 == 1, 1000 + noise(n * 7 + 3))));
        assert!(same < 4.5, "{same}");
        let other = (0..20_000).map(|n| {
            let class = noise(n) & 1 == 1;
            (class, 1000 + noise(n * 7 + 3) + if class { 80 } else { 0 })
        });
        assert!(samples(other) > 10.0);
        // Rare interruptions hide nothing.
        let disturbed = (0..20_000).map(|n| {
            let class = noise(n) & 1 == 1;
            let pause = if n % 100 == 0 { noise(n) * 10_000 } else { 0 };
            (
                class,
                1000 + noise(n * 7 + 3) + pause + if class { 80 } else { 0 },
            )
        });
        assert!(samples(disturbed) > 10.0);
    }
}
