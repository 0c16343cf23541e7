//! Any sequence of operations is one on an array of bytes.

use bytes::Bytes;
use proptest::prelude::*;
use xosfs::demo::{Action, Rule};
use xosfs::write::WriteSettings;

use super::world::array::{grow, part_of, punch, somewhere};
use super::world::{PAGE, pattern, small, whole, world};

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Now(u64, u64),
    Append(u64),
    Truncate(u64),
    Punch(u64, u64),
    Read(u64, u64),
    Commit,
    /// The next so-many-th request of the commit fails.
    Broken(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let at = somewhere;
    let len = || prop_oneof![1..300u64, 1..4 * PAGE];
    prop_oneof![
        3 => (at(), len()).prop_map(|(o, l)| Op::Write(o, l)),
        2 => (at(), len()).prop_map(|(o, l)| Op::Now(o, l)),
        5 => len().prop_map(Op::Append),
        1 => at().prop_map(Op::Truncate),
        1 => (at(), len()).prop_map(|(o, l)| Op::Punch(o, l)),
        3 => (at(), len()).prop_map(|(o, l)| Op::Read(o, l)),
        2 => Just(Op::Commit),
        1 => (1..6u64).prop_map(Op::Broken),
    ]
}

async fn run(ops: Vec<Op>, memory: usize, stream_after: u64, equal_parts: bool) {
    let mut settings = WriteSettings { stream_after, ..small() };
    settings.limits.equal_parts = equal_parts;
    let t = world(memory, settings).await;
    let mut w = t.create("f");
    let mut model: Vec<u8> = Vec::new();
    // What the bucket holds, as far as commits said so.
    let mut stored: Option<Vec<u8>> = None;
    for (i, op) in ops.into_iter().enumerate() {
        match op {
            Op::Write(o, l) => {
                let data = pattern(i as u64, l);
                w.write(o, Bytes::from(data.clone())).await.unwrap();
                grow(&mut model, o, &data);
            }
            Op::Now(o, l) => {
                let data = pattern(i as u64, l);
                if w.write_now(o, &data).unwrap().is_some() {
                    grow(&mut model, o, &data);
                }
            }
            Op::Append(l) => {
                let data = pattern(i as u64, l);
                let at = w.append(Bytes::from(data.clone())).await.unwrap();
                assert_eq!(at, model.len() as u64);
                grow(&mut model, at, &data);
            }
            Op::Truncate(n) => {
                w.truncate(n).await.unwrap();
                model.resize(n as usize, 0);
            }
            Op::Punch(o, l) => {
                w.punch(o, l).await.unwrap();
                punch(&mut model, o, l);
            }
            Op::Read(o, l) => {
                let expected = part_of(&model, o, l);
                if let Some(now) = w.read_now(o, l as usize) {
                    assert!(now == expected);
                }
                assert!(w.read(o, l as usize).await.unwrap() == expected);
            }
            Op::Commit => {
                w.commit().await.unwrap();
                stored = Some(model.clone());
                assert!(!w.is_dirty());
            }
            Op::Broken(n) => {
                t.server.knobs().fail(Rule::new("*", Action::Status(500, "InternalError".into())).nth(n));
                let done = w.commit().await;
                let hit = t.server.knobs().hits() > 0;
                t.server.knobs().clear_rules();
                match done {
                    Ok(_) => stored = Some(model.clone()),
                    Err(e) => {
                        assert!(hit, "{e:?}");
                        w.write(0, Bytes::from_static(b"z")).await.unwrap();
                        grow(&mut model, 0, b"z");
                        if let Some(stored) = &stored {
                            let now = t.stored("f").unwrap();
                            assert!(now == *stored || w.base().is_some_and(|b| b.size == now.len() as u64));
                        }
                    }
                }
            }
        }
        assert_eq!(w.size(), model.len() as u64);
        assert!(t.io.memory() <= memory / 2);
    }
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    // A second handle sees the same, and changes it.
    drop(w);
    w = t.open("f").await;
    w.append(Bytes::from_static(b"end")).await.unwrap();
    model.extend_from_slice(b"end");
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    t.is_clean().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_operations_is_a_byte_array(
        ops in proptest::collection::vec(op(), 1..25),
        memory in prop_oneof![Just(64usize << 20), Just(4 << 20)],
        stream_after in prop_oneof![Just(3 * PAGE), Just(u64::MAX)],
        equal_parts: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(ops, memory, stream_after, equal_parts));
    }
}
