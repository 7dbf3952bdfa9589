//! What a message costs, and what an idle mailbox and actor weigh, beside tokio's mpsc, a bare ractor cast and crossbeam lanes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    unsafe_code,
    missing_docs,
    reason = "a bench; the allocator counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use tidegate_actors::{Batch, Bounds, Census, Fault, Flow, Handler, Inbox, Light, Mailbox, Message, Window};

/// Counts living bytes.
struct Counting;

static LIVING: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator and only counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVING.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVING.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug, Clone)]
struct Note(Arc<[u8]>);

impl Message for Note {
    type Stream = u32;
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

const BOUNDS: Bounds = Bounds { messages: 128, bytes: 1 << 20 };

struct Sink;
impl Handler for Sink {
    type Message = Note;
    type Output = ();
    async fn handle(&mut self, batch: &mut Batch<Note>, _: &mut Inbox<Note>) -> Result<Flow<()>, Fault> {
        batch.messages.clear();
        Ok(Flow::Continue)
    }
}

struct Bare;
impl ractor::Actor for Bare {
    type Msg = Note;
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ractor::ActorRef<Note>, (): ()) -> Result<(), ractor::ActorProcessingErr> {
        Ok(())
    }
    async fn handle(
        &self,
        _: ractor::ActorRef<Note>,
        note: Note,
        (): &mut (),
    ) -> Result<(), ractor::ActorProcessingErr> {
        black_box(note);
        Ok(())
    }
}

/// Living bytes of one of a thousand.
fn weigh<T>(make: impl Fn() -> T) -> f64 {
    let before = LIVING.load(Ordering::Relaxed);
    let made: Vec<T> = (0..1000).map(|_| make()).collect();
    let after = LIVING.load(Ordering::Relaxed);
    drop(made);
    (after - before) as f64 / 1000.0
}

fn weights(runtime: &tokio::runtime::Runtime) {
    let note = Note(Arc::from(&b"x"[..]));
    println!("bytes alive each:");
    println!("  mailbox, idle                      {:8.0}", weigh(|| Mailbox::<Note>::new(BOUNDS)));
    println!(
        "  mailbox after a message            {:8.0}",
        weigh(|| {
            let (mailbox, mut inbox) = Mailbox::<Note>::new(BOUNDS);
            mailbox.push(note.clone()).unwrap();
            inbox.try_take(&mut Batch::default(), Window::ALL);
            (mailbox, inbox)
        })
    );
    let census = Census::default();
    println!(
        "  light actor with its mailbox       {:8.0}",
        weigh(|| {
            let (mailbox, inbox) = Mailbox::<Note>::new(BOUNDS);
            let light = runtime.block_on(Light::start(Sink, inbox, Window::ALL, &census)).unwrap();
            (mailbox, light)
        })
    );
    println!("  tokio mpsc(128), idle              {:8.0}", weigh(|| tokio::sync::mpsc::channel::<Note>(128)));
    println!("  four crossbeam ArrayQueue(128)     {:8.0}", weigh(|| [(); 4].map(|()| ArrayQueue::<Note>::new(128))));
    println!(
        "  ractor actor, idle                 {:8.0}",
        weigh(|| runtime.block_on(ractor::Actor::spawn(None, Bare, ())).unwrap())
    );
}

fn mailbox(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    weights(&runtime);
    let note = Note(Arc::from(&[0_u8; 200][..]));
    for burst in [1_usize, 8, 64] {
        let mut group = criterion.benchmark_group(format!("send and take, {burst} at once"));
        group.throughput(Throughput::Elements(burst as u64));
        let (mailbox, mut inbox) = Mailbox::new(BOUNDS);
        let mut batch = Batch::default();
        group.bench_function(BenchmarkId::from_parameter("mailbox"), |bencher| {
            bencher.iter(|| {
                for _ in 0..burst {
                    mailbox.push(note.clone()).unwrap();
                }
                inbox.try_take(&mut batch, Window::ALL);
                batch.messages.clear();
            });
        });
        let (sender, mut receiver) = tokio::sync::mpsc::channel(128);
        group.bench_function(BenchmarkId::from_parameter("tokio mpsc"), |bencher| {
            bencher.iter(|| {
                for _ in 0..burst {
                    sender.try_send(note.clone()).unwrap();
                }
                while let Ok(note) = receiver.try_recv() {
                    black_box(note);
                }
            });
        });
        let lanes = [(); 4].map(|()| ArrayQueue::new(128));
        group.bench_function(BenchmarkId::from_parameter("crossbeam lanes"), |bencher| {
            bencher.iter(|| {
                for _ in 0..burst {
                    lanes[2].push(note.clone()).unwrap();
                }
                for lane in &lanes {
                    while let Some(note) = lane.pop() {
                        black_box(note);
                    }
                }
            });
        });
        let (bare, _) = runtime.block_on(ractor::Actor::spawn(None, Bare, ())).unwrap();
        group.bench_function(BenchmarkId::from_parameter("ractor cast"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    for _ in 0..burst {
                        bare.cast(note.clone()).unwrap();
                    }
                    tokio::task::yield_now().await;
                });
            });
        });
        group.finish();
    }
}

criterion_group!(benches, mailbox);
criterion_main!(benches);
