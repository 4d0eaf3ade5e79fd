//! Fair turns of clients at the processors and in the lanes. Turns rotate among clients: a client with a
//! single task waits for one task of a client with a thousand, not for all.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// The owner of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// The holder of certificates with this subject.
    Subject(Arc<[u8]>),
    /// A peer at this address, or in this IPv6 network, without a known subject.
    Address(IpAddr),
}

/// Returns the number of concurrent turns: one for each processor.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the number of threads of a serving runtime: one more than concurrent turns, so that a thread
/// remains to queue the tasks of a client with many.
pub fn threads() -> usize {
    at_once() + 1
}

/// A number of concurrent turns that rotate among the waiting clients.
pub(crate) struct Turns(Mutex<Queues>);

struct Queues {
    free: usize,
    /// The waiting tasks of each client, in order.
    waiting: HashMap<Client, VecDeque<Waiting>>,
    /// The waiting clients, the next one first.
    round: VecDeque<Client>,
}

/// A waiting task.
struct Waiting {
    task: oneshot::Sender<Turn>,
    /// Whether the task takes a place. A task without a limit of places takes none, and loses none.
    counted: bool,
}

/// A turn, released when dropped.
pub(crate) struct Turn(Arc<Turns>);

/// An error: too many tasks wait, or the wait of this task ended in favour of a client with fewer of them.
#[derive(Debug)]
pub(crate) struct Crowded;

impl Turns {
    /// Returns turns for the processors, one for each.
    pub(crate) fn of_processors() -> Arc<Turns> {
        Turns::new(at_once())
    }

    /// Returns turns of which `at_once` are concurrent, at least one.
    pub(crate) fn new(at_once: usize) -> Arc<Turns> {
        let queues = Queues { free: at_once.max(1), waiting: HashMap::new(), round: VecDeque::new() };
        Arc::new(Turns(Mutex::new(queues)))
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock()
    }

    /// Waits for a turn of `whose`. At most `places` tasks wait, if there is such a limit; tasks without the
    /// limit do not count.
    ///
    /// # Errors
    /// Returns an error if all places are taken and no client has more of them, or if this task loses its
    /// place to a client with fewer.
    pub(crate) async fn take(
        self: &Arc<Self>,
        whose: &Client,
        places: Option<usize>,
    ) -> Result<Turn, Crowded> {
        let turn = {
            let mut queues = self.queues();
            if queues.free > 0 {
                queues.free -= 1;
                return Ok(Turn(Arc::clone(self)));
            }
            if places.is_some_and(|places| !queues.make_place(whose, places)) {
                return Err(Crowded);
            }
            let (task, turn) = oneshot::channel();
            let task = Waiting { task, counted: places.is_some() };
            match queues.waiting.get_mut(whose) {
                Some(waiting) => waiting.push_back(task),
                None => {
                    queues.waiting.insert(whose.clone(), [task].into());
                    queues.round.push_back(whose.clone());
                }
            }
            turn
        };
        turn.await.map_err(|_| Crowded)
    }

    /// Returns a turn if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Turn> {
        let mut queues = self.queues();
        queues.free = queues.free.checked_sub(1)?;
        Some(Turn(Arc::clone(self)))
    }

    /// Runs `future`, each step of it in a turn of `whose`. A step must not wait for another task that takes
    /// turns.
    pub(crate) async fn run<F: Future>(self: &Arc<Self>, whose: &Client, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            let Ok(turn) = self.take(whose, None).await else {
                // No caller limits the places of tasks that take turns at each step.
                continue;
            };
            let step = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
            drop(turn);
            if let Poll::Ready(output) = step {
                return output;
            }
            // The step has registered this task's waker: wait until it is woken.
            let mut woken = false;
            poll_fn(|_| if std::mem::replace(&mut woken, true) { Poll::Ready(()) } else { Poll::Pending })
                .await;
        }
    }
}

impl Queues {
    /// Returns whether fewer than `places` places are taken. If not, ends the wait of the last counted task
    /// of the client with the most places in favour of one of `whose`. Returns false if no client has more
    /// places than `whose`.
    fn make_place(&mut self, whose: &Client, places: usize) -> bool {
        let taken = |waiting: &VecDeque<Waiting>| waiting.iter().filter(|waiting| waiting.counted).count();
        let all = |queues: &Queues| queues.waiting.values().map(taken).sum::<usize>();
        if all(self) < places {
            return true;
        }
        // An abandoned task takes no place.
        self.waiting.values_mut().for_each(|tasks| tasks.retain(|waiting| !waiting.task.is_closed()));
        if all(self) < places {
            return true;
        }
        let own = self.waiting.get(whose).map_or(0, taken);
        let most = self.waiting.values_mut().max_by_key(|waiting| taken(waiting));
        let Some(most) = most.filter(|most| taken(most) > own) else { return false };
        let last = most.iter().rposition(|waiting| waiting.counted);
        last.and_then(|last| most.remove(last)).is_some()
    }

    /// Returns the task that gets the next turn.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        loop {
            let whose = self.round.pop_front()?;
            let Some(waiting) = self.waiting.get_mut(&whose) else { continue };
            let next = loop {
                match waiting.pop_front() {
                    Some(waiting) if waiting.task.is_closed() => {}
                    next => break next.map(|waiting| waiting.task),
                }
            };
            if waiting.is_empty() {
                self.waiting.remove(&whose);
            } else {
                self.round.push_back(whose);
            }
            if next.is_some() {
                return next;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.0.queues();
        let Some(task) = queues.next() else {
            queues.free += 1;
            return;
        };
        drop(queues);
        // If the task is gone meanwhile, the turn is dropped and passes to the next task.
        let _ = task.send(Turn(Arc::clone(&self.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Client {
        Client::Subject(name.as_bytes().into())
    }

    #[test]
    fn a_runtime_has_a_thread_more_than_there_are_turns() {
        let turns = Turns::of_processors();
        let taken: Vec<_> = std::iter::from_fn(|| turns.try_take()).collect();
        assert_eq!(taken.len(), std::thread::available_parallelism().unwrap().get());
        assert_eq!(threads(), taken.len() + 1);
        assert!(Turns::new(0).try_take().is_some(), "there is a turn at least");
    }

    /// A client with one task waits for one task of another client, not for all of them.
    #[tokio::test]
    async fn a_single_task_waits_for_no_crowd() {
        let turns = Turns::new(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turns.take(&client("first"), None).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for whose in ["crowd", "crowd", "crowd", "crowd", "single", "crowd"] {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tasks.spawn(async move {
                turns.run(&client(whose), async { order.lock().push(whose) }).await;
            });
            tokio::task::yield_now().await;
        }
        // An abandoned task is passed over.
        let gone = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.run(&client("gone"), async {}).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        drop(first);
        tasks.join_all().await;
        assert_eq!(*order.lock(), ["crowd", "single", "crowd", "crowd", "crowd", "crowd"]);
        assert_eq!(turns.queues().free, 1, "the turn is free again");
    }

    #[tokio::test]
    async fn a_client_with_fewer_tasks_displaces_one_of_the_client_with_most() {
        let turns = Turns::new(1);
        let first = turns.take(&client("first"), None).await.unwrap();
        let wait = |whose: &'static str| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.take(&client(whose), Some(3)).await.map(drop) })
        };
        let mut crowd = [(); 3].map(|()| wait("crowd")).into_iter().collect::<Vec<_>>();
        tokio::task::yield_now().await;
        assert!(wait("crowd").await.unwrap().is_err(), "no client has more");
        crowd.push(wait("single"));
        tokio::task::yield_now().await;
        assert!(crowd.remove(2).await.unwrap().is_err(), "the last of the crowd");
        drop(first);
        for task in crowd {
            task.await.unwrap().unwrap();
        }
        assert!(turns.try_take().is_some());
    }

    /// A slow review that already has a slot of its lane waits here without a limit.
    #[tokio::test]
    async fn a_task_without_a_limit_takes_no_place_and_loses_none() {
        let turns = Turns::new(1);
        let first = turns.take(&client("first"), None).await.unwrap();
        let wait = |whose: &'static str, places| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.take(&client(whose), places).await.map(drop) })
        };
        let admitted = [wait("slow", None), wait("slow", None)];
        tokio::task::yield_now().await;
        assert!(wait("steady", Some(0)).await.unwrap().is_err(), "no task may wait");
        let steady = wait("steady", Some(1));
        tokio::task::yield_now().await;
        assert!(wait("steady", Some(1)).await.unwrap().is_err(), "the place is taken");
        drop(first);
        for task in admitted.into_iter().chain([steady]) {
            task.await.unwrap().unwrap();
        }
    }
}
