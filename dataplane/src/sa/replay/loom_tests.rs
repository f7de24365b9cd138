//! The window in every interleaving of a few threads, under the C11 memory model.

use loom::sync::Arc;
use loom::thread;

use super::*;

/// Numbers from one to the next use of a slot: the smallest window has three slots.
const RING: u64 = 3 * WORD;

/// Accepts the numbers of each list on a thread of its own, and returns which of them were.
fn race(window: &Arc<ReplayWindow>, lists: &[&'static [u64]]) -> Vec<(u64, bool)> {
    let threads: Vec<_> = lists
        .iter()
        .map(|&list| {
            let window = Arc::clone(window);
            thread::spawn(move || list.iter().map(|&seq| (seq, window.accept(seq).is_ok())).collect())
        })
        .collect();
    threads.into_iter().flat_map(|thread| -> Vec<(u64, bool)> { thread.join().unwrap() }).collect()
}

/// Checks `model` with at most two preemptions: three threads have too many interleavings for all of them.
fn bounded_model(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

fn times(results: &[(u64, bool)], seq: u64) -> usize {
    results.iter().filter(|&&result| result == (seq, true)).count()
}

#[test]
fn loom_one_of_two_claims_a_number() {
    loom::model(|| {
        let window = Arc::new(ReplayWindow::new(64, true));
        let results = race(&window, &[&[40], &[40]]);
        assert_eq!(times(&results, 40), 1);
        assert_eq!(window.high_water(), 40);
    });
}

#[test]
fn loom_one_of_three_claims_a_number() {
    bounded_model(|| {
        let window = Arc::new(ReplayWindow::new(64, true));
        let results = race(&window, &[&[40], &[40], &[40]]);
        assert_eq!(times(&results, 40), 1);
        assert_eq!(window.high_water(), 40);
    });
}

#[test]
fn loom_neighbours_in_a_word_do_not_lose_each_other() {
    loom::model(|| {
        let window = Arc::new(ReplayWindow::new(64, true));
        let results = race(&window, &[&[40, 42], &[41, 42]]);
        assert_eq!([times(&results, 40), times(&results, 41), times(&results, 42)], [1, 1, 1]);
        assert_eq!(window.high_water(), 42);
    });
}

/// Number 5 races with itself and with the number that takes over its slot.
fn take_over_a_slot(lists: &[&'static [u64]]) {
    let window = Arc::new(ReplayWindow::new(64, true));
    let results = race(&window, lists);
    assert_eq!(times(&results, 5 + RING), 1);
    assert!(times(&results, 5) <= 1);
    assert!(window.accept(5).is_err());
    assert!(window.accept(5 + RING).is_err());
    assert_eq!(window.high_water(), 5 + RING);
}

#[test]
fn loom_a_slot_that_is_taken_over_gives_no_second_chance() {
    loom::model(|| take_over_a_slot(&[&[5, 5], &[5 + RING]]));
    loom::model(|| take_over_a_slot(&[&[5], &[5, 5 + RING]]));
}

#[test]
fn loom_three_threads_take_over_a_slot() {
    bounded_model(|| take_over_a_slot(&[&[5], &[5], &[5 + RING]]));
}

#[test]
fn loom_nothing_inside_the_window_is_refused() {
    loom::model(|| {
        let window = Arc::new(ReplayWindow::new(64, true));
        // 33 is the lowest number in the window once 96 is the highest.
        let results = race(&window, &[&[96, 34], &[33, 95]]);
        assert!(results.iter().all(|&(_, accepted)| accepted), "{results:?}");
        assert_eq!(window.high_water(), 96);
    });
}

#[test]
fn loom_a_run_races_with_its_own_numbers() {
    loom::model(|| {
        let window = Arc::new(ReplayWindow::new(64, true));
        let other = {
            let window = Arc::clone(&window);
            thread::spawn(move || [window.accept(39).is_ok(), window.accept(5 + RING).is_ok()])
        };
        let mut run = [true; 4];
        window.accept_run(4, |index| [5, 38, 39, 40].get(index).copied(), |index, _| run[index] = false);
        let other = other.join().unwrap();
        assert!(run[1] && run[3] && other[1]);
        assert!(run[2] ^ other[0], "39 was accepted once");
        assert!(window.accept(5).is_err());
    });
}

#[test]
fn loom_a_round_never_goes_back() {
    loom::model(|| {
        let window = Arc::new(ReplayWindow::new(64, true));
        let results = race(&window, &[&[1 + RING, 1 + 2 * RING], &[1, 1 + RING]]);
        assert_eq!(times(&results, 1 + 2 * RING), 1);
        assert_eq!(times(&results, 1 + RING), 1);
        for seq in [1, 1 + RING, 1 + 2 * RING] {
            assert!(window.accept(seq).is_err());
        }
    });
}

#[test]
fn loom_inference_holds_while_the_window_moves_into_the_next_subspace() {
    loom::model(|| {
        let window = Arc::new(ReplayWindow::starting_at((1 << 32) - 10, 64, true));
        let mover = {
            let window = Arc::clone(&window);
            thread::spawn(move || window.accept((1 << 32) + 30))
        };
        assert_eq!(window.infer(u32::MAX), Ok((1 << 32) - 1));
        assert_eq!(window.infer(31), Ok((1 << 32) + 31));
        assert_eq!(mover.join().unwrap(), Ok(()));
    });
}
