use std::collections::HashMap;
use std::fs;
use std::path::Path;

use huitong_proof::Statement;

use super::*;
use crate::doubt::Resumption;
use crate::fixture::{Node, draft, id};
use crate::gaps::Reinstated;
use crate::merkle::tests::Naive;
use crate::merkle::{leaf_hash, verify_consistency, verify_inclusion};
use crate::tiles::encode_tile;

const BLOCK: u64 = 256;

/// Every file of the log that a checkpoint over these entries needs, computed level by level from all leaves.
fn expected_files(leaves: &[Digest], entries: Option<&[Vec<u8>]>) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut row = leaves.to_vec();
    let mut level = 0;
    while !row.is_empty() {
        for (number, hashes) in (0..).zip(row.chunks(256)) {
            let name = TileName { level, number, width: hashes.len() as u16 };
            files.insert(FilePath::Tile(name).to_string(), encode_tile(hashes));
        }
        row = row.chunks_exact(256).map(root_of_all).collect();
        level += 1;
    }
    for (number, entries) in (0..).zip(entries.unwrap_or_default().chunks(256)) {
        let name = BundleName { number, width: entries.len() as u16 };
        let bytes = entries.iter().flat_map(|entry| {
            let length = (entry.len() as u16).to_be_bytes();
            length.into_iter().chain(entry.iter().copied()).collect::<Vec<u8>>()
        });
        files.insert(FilePath::Entries(name).to_string(), bytes.collect());
    }
    files
}

fn root_of_all(leaves: &[Digest]) -> Digest {
    Naive::new(leaves).root(leaves.len())
}

fn files_below(root: &Path, directory: &str) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut open = vec![root.join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

fn root_of(node: &Node) -> std::path::PathBuf {
    node.directory.path().join("ledger")
}

fn bytes(statements: &[Statement]) -> Vec<Vec<u8>> {
    statements.iter().map(|statement| statement.bytes().to_vec()).collect()
}

/// The node's log is exactly these entries, wherever they lie.
fn check_entries(node: &Node, statements: &[Statement]) {
    let ledger = &node.ledger;
    let view = ledger.store().view();
    assert_eq!(ledger.size(&view).unwrap(), statements.len() as u64);
    for (index, statement) in (0..).zip(statements) {
        assert_eq!(
            ledger.entry(&view, index).unwrap().as_deref(),
            Some(statement.bytes().as_ref()),
            "{index}"
        );
        assert_eq!(ledger.index_of(&view, &statement.digest()).unwrap(), Some(index));
        let body = statement.body();
        let on_channel = ledger.on_channel(&view, &body.issuer, &body.audience, body.seq).unwrap();
        assert_eq!(on_channel.map(|(index, _)| index), Some(index));
    }
    assert_eq!(ledger.entry(&view, statements.len() as u64).unwrap(), None);
    assert_eq!(ledger.about(&view, &[5; 16], usize::MAX).unwrap(), statements);
}

async fn publish(node: &Node) -> SignedCheckpoint {
    let signed = node.ledger.checkpoint().await.unwrap();
    node.ledger.publish().await.unwrap();
    signed
}

fn settled(node: &Node) -> u64 {
    tables::settled(&node.ledger.store().view()).unwrap()
}

#[tokio::test]
async fn files_are_those_of_the_specification_at_every_size() {
    let node = Node::with_block(1, BLOCK);
    let mut statements = Vec::new();
    assert_eq!(node.ledger.read_public("checkpoint").unwrap(), None);
    node.ledger.publish().await.unwrap();
    assert_eq!(files_below(&root_of(&node), "tile"), HashMap::new());
    for step in [0, 1, 1, 253, 1, 1, 1, 200, 54, 1, 1, 300, 212, 5] {
        statements.extend(node.issue_many(step, &id(2)).await);
        let signed = publish(&node).await;
        let entries = bytes(&statements);
        let leaves: Vec<Digest> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let size = statements.len() as u64;
        assert_eq!((signed.checkpoint().size, signed.checkpoint().root), (size, root_of_all(&leaves)));
        let expected = expected_files(&leaves, Some(&entries));
        let found = files_below(&root_of(&node), "tile");
        assert_eq!(
            found.keys().collect::<BTreeSet<_>>(),
            expected.keys().collect::<BTreeSet<_>>(),
            "at {size}"
        );
        assert_eq!(found, expected, "at {size}");
        assert_eq!(fs::read_to_string(root_of(&node).join("checkpoint")).unwrap(), signed.text());
        assert_eq!(settled(&node), size / BLOCK * BLOCK);
    }
    check_entries(&node, &statements);
    let node = node.restart().await;
    check_entries(&node, &statements);
    assert_eq!(node.ledger.opening().rebuilt, Vec::<String>::new());
}

#[tokio::test]
async fn roots_of_all_sizes_to_2000_and_proofs_from_files() {
    let node = Node::with_block(1, BLOCK);
    let statements = node.issue_many(2_000, &id(2)).await;
    let leaves: Vec<Digest> = statements.iter().map(|statement| leaf_hash(statement.bytes())).collect();
    let naive = Naive::new(&leaves);
    // All in memory, then mostly in files, then in files of an earlier process.
    node.ledger.checkpoint().await.unwrap();
    let mut node = node;
    for stage in 0..3 {
        match stage {
            0 => {}
            1 => node.ledger.publish().await.unwrap(),
            _ => node = node.restart().await,
        }
        assert_eq!(settled(&node), if stage == 0 { 0 } else { 1_792 });
        for size in 0..=2_000 {
            if stage == 2 || size % 13 == 0 || size % 256 < 2 {
                let root = node.ledger.root_at(size).unwrap();
                assert_eq!(root, naive.root(size as usize), "{stage}: {size}");
            }
        }
        assert!(matches!(node.ledger.root_at(2_001), Err(LedgerError::Beyond { asked: 2_001, size: 2_000 })));
        for (from, limit) in [(0, 2_000), (0, 0), (255, 2), (1_999, 9), (2_000, 9), (u64::MAX, 9), (700, 600)]
        {
            let from_at = usize::try_from(from.min(2_000)).unwrap();
            let end = (from_at + limit).min(2_000);
            assert_eq!(node.ledger.leaves(from, limit).unwrap(), leaves[from_at..end]);
        }
    }
    // The paths themselves are compared for all pairs where the tree is tested alone.
    for size in (0..=20).chain(62..=66).chain(126..=130) {
        let root = naive.root(size);
        for (index, leaf) in leaves[..size].iter().enumerate() {
            let path = node.ledger.inclusion_at(index as u64, size as u64).unwrap();
            assert_eq!(path, naive.path(index, size));
            verify_inclusion(leaf, index as u64, size as u64, &path, &root).unwrap();
        }
        for old in 0..=size {
            let path = node.ledger.consistency(old as u64, size as u64).unwrap();
            if old == 0 || old == size {
                assert!(path.is_empty());
                continue;
            }
            assert_eq!(path, naive.consistency(old, size));
            let old_root = naive.root(old);
            verify_consistency(old as u64, &old_root, size as u64, &root, &path).unwrap();
        }
        let refused = node.ledger.inclusion_at(size as u64, size as u64);
        assert!(matches!(refused, Err(LedgerError::Beyond { .. })), "{refused:?}");
        let refused = node.ledger.consistency(size as u64 + 1, size as u64);
        assert!(matches!(refused, Err(LedgerError::Behind { .. })), "{refused:?}");
    }
    for (from, to) in
        [(0, 0), (0, 7), (1_900, 2_000), (1_792, 1_793), (256, 300), (255, 2_000), (2_000, 2_000)]
    {
        let root = node.ledger.root_with(from, &leaves[from as usize..to]).unwrap();
        assert_eq!(root, naive.root(to), "{from} {to}");
    }
    let inclusion = node.ledger.inclusion(&statements[77].digest(), 1_000).unwrap();
    assert_eq!((inclusion.index, inclusion.path), (77, naive.path(77, 1_000)));
}

#[tokio::test]
async fn the_specifications_log_of_70_000_entries() {
    // Lost entries have a hash and nothing else, which makes a long log quickly.
    let node = Node::new(1);
    node.ledger.stop_signing("test").unwrap();
    let leaves: Vec<Digest> = (0..70_000_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
    let naive = Naive::new(&leaves);
    for (first, part) in (0_u64..).step_by(10_000).zip(leaves.chunks(10_000)) {
        let part = part.to_vec();
        node.run(move |ledger, tx| {
            for (index, leaf) in (first..).zip(part) {
                ledger.reinstate(tx, index, &Reinstated::Lost { leaf, reason: "test".to_owned() })?;
            }
            Ok(())
        })
        .await
        .unwrap();
    }
    node.ledger.resume_signing(Resumption::Operator).await.unwrap();
    let signed = publish(&node).await;
    assert_eq!(signed.checkpoint().root, root_of_all(&leaves));
    assert_eq!(settled(&node), 69_632);

    let found = files_below(&root_of(&node), "tile");
    let expected = expected_files(&leaves, None);
    for name in ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"] {
        assert!(found.contains_key(name), "{name}");
    }
    assert_eq!(found.len(), 273 + 1 + 1 + 1 + 1);
    assert!(found == expected, "the bytes of every tile");

    let node = node.restart().await;
    assert_eq!(node.ledger.latest_checkpoint(&node.ledger.store().view()).unwrap(), Some(signed));
    for size in [1, 255, 256, 257, 4_095, 4_096, 4_097, 65_535, 65_536, 65_537, 69_999, 70_000] {
        let root = naive.root(size);
        assert_eq!(node.ledger.root_at(size as u64).unwrap(), root, "{size}");
        for index in [0, size / 2, size - 1] {
            let path = node.ledger.inclusion_at(index as u64, size as u64).unwrap();
            verify_inclusion(&leaves[index], index as u64, size as u64, &path, &root).unwrap();
        }
        let path = node.ledger.consistency(size as u64, 70_000).unwrap();
        verify_consistency(size as u64, &root, 70_000, &naive.root(70_000), &path).unwrap();
    }
    // Sixteen blocks were merged into one run, the seventeenth is beside it.
    let runs: Vec<String> = node.ledger.inner.archive.runs().iter().map(|run| run.name.file()).collect();
    assert_eq!(runs, ["2-0", "0-16"]);
}

#[tokio::test]
async fn readers_see_what_a_published_checkpoint_covers() {
    let mut node = Node::with_block(1, BLOCK);
    let statements = node.issue_many(600, &id(2)).await;
    publish(&node).await;
    node.issue_many(100, &id(2)).await;
    node.ledger.checkpoint().await.unwrap();
    let leaves: Vec<Digest> = statements.iter().map(|statement| leaf_hash(statement.bytes())).collect();
    for restarted in [false, true] {
        if restarted {
            node = node.restart().await;
        }
        let tile = |path: &str| node.ledger.read_public(path).unwrap();
        for (path, hashes) in [
            ("tile/0/000", &leaves[..256]),
            ("tile/0/001", &leaves[256..512]),
            ("tile/0/002.p/88", &leaves[512..600]),
            // An earlier checkpoint may have needed these.
            ("tile/0/002.p/1", &leaves[512..513]),
            ("tile/0/000.p/200", &leaves[..200]),
        ] {
            assert_eq!(tile(path), Some(encode_tile(hashes)), "{path}");
        }
        let roots: Vec<Digest> = leaves.chunks_exact(256).map(root_of_all).collect();
        assert_eq!(tile("tile/1/000.p/2"), Some(encode_tile(&roots)));
        // Signed, not yet published; beyond the log; not a path of a tile.
        for path in [
            "tile/0/002.p/89",
            "tile/0/002",
            "tile/1/000",
            "tile/1/000.p/3",
            "tile/2/000.p/1",
            "tile/9/000",
            "tile/0/x018/x446/x744/x073/x709/x551/615",
            "tile/entries/000",
            "",
            "about",
            "../journal",
            "tile/0/../../about",
            "lookup/0-0",
            "unconfirmed",
        ] {
            assert_eq!(tile(path), None, "{path}");
        }
        let text = String::from_utf8(tile("checkpoint").unwrap()).unwrap();
        assert!(text.contains("\n600\n"), "{text}");

        let bundle = |path: &str| node.ledger.bundle(path).unwrap();
        let entries = bytes(&statements);
        for (path, entries) in [
            ("tile/entries/001", &entries[256..512]),
            ("tile/entries/002.p/88", &entries[512..]),
            ("tile/entries/000.p/3", &entries[..3]),
        ] {
            assert_eq!(bundle(path), encode_bundle(entries.iter().map(Vec::as_slice)), "{path}");
        }
        for path in [
            "tile/entries/002",
            "tile/entries/002.p/89",
            "tile/0/000",
            "checkpoint",
            "tile/entries/../checkpoint",
        ] {
            assert_eq!(bundle(path), None, "{path}");
        }
    }
}

#[tokio::test]
async fn a_default_block_of_4096() {
    let node = Node::new(1);
    let mut statements = node.issue_many(4_095, &id(2)).await;
    publish(&node).await;
    assert_eq!(settled(&node), 0);
    statements.extend(node.issue_many(1, &id(2)).await);
    publish(&node).await;
    assert_eq!(settled(&node), 4_096);
    statements.extend(node.issue_many(1, &id(3)).await);
    publish(&node).await;
    let view = node.ledger.store().view();
    assert_eq!(tables::entries(&view, 0, 9).map_err(|_| ()), Err(()), "the rows before are gone");
    assert_eq!(tables::entries(&view, 4_096, 9).unwrap().len(), 1);
    check_entries(&node, &statements);
}

#[tokio::test]
async fn publishing_goes_on_beside_everything_else() {
    let node = Node::with_block(1, BLOCK);
    let publishing = node.ledger.clone();
    let publisher = tokio::spawn(async move {
        loop {
            publishing.checkpoint().await.unwrap();
            publishing.publish().await.unwrap();
        }
    });
    let writers: Vec<_> = (0..4_u8)
        .map(|writer| {
            let ledger = node.ledger.clone();
            tokio::spawn(async move {
                for round in 0..40 {
                    let issuing = ledger.clone();
                    let issued: Vec<Statement> =
                        ledger
                            .store()
                            .transact("test", move |tx| {
                                (0..20)
                                    .map(|n| issuing.issue(tx, draft(&id(2 + writer), n)))
                                    .collect::<Result<_, LedgerError>>()
                            })
                            .await
                            .unwrap();
                    let last = issued.last().unwrap();
                    let view = ledger.store().view();
                    let index = ledger.index_of(&view, &last.digest()).unwrap().unwrap();
                    assert_eq!(ledger.entry(&view, index).unwrap().as_deref(), Some(last.bytes().as_ref()));
                    let proofs = ledger.prove(vec![last.digest()], 0).await.unwrap();
                    assert_eq!(proofs.inclusion[0].index, index, "{round}");
                    // What was said long ago is found too, while blocks are settled under our feet.
                    let first =
                        ledger.statements_on_channel(&view, ledger.node(), &id(2 + writer), 0, 3).unwrap();
                    assert_eq!(first.len(), 3);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    publisher.abort();
    let _ = publisher.await;
    publish(&node).await;
    let view = node.ledger.store().view();
    assert_eq!((node.ledger.size(&view).unwrap(), settled(&node)), (3_200, 3_072));
    for writer in 0..4 {
        let said =
            node.ledger.statements_on_channel(&view, node.ledger.node(), &id(2 + writer), 0, 900).unwrap();
        assert_eq!(
            said.iter().map(|statement| statement.body().seq).collect::<Vec<_>>(),
            (0..800).collect::<Vec<_>>()
        );
    }
    let runs: Vec<String> = node.ledger.inner.archive.runs().iter().map(|run| run.name.file()).collect();
    assert_eq!(runs, ["1-0", "1-1", "1-2"]);
}

#[tokio::test]
async fn channels_are_listed_and_holes_passed_over() {
    let node = Node::with_block(1, BLOCK);
    node.issue_many(3, &id(2)).await;
    node.issue_many(300, &id(3)).await;
    let peer = Node::new(2);
    let theirs = peer.issue_many(6, &id(1)).await;
    for at in [4, 0, 2] {
        let statement = theirs[at].clone();
        node.run(move |ledger, tx| ledger.admit(tx, &statement)).await.unwrap();
    }
    publish(&node).await;
    let (ledger, view) = (&node.ledger, node.ledger.store().view());
    let mut listed = Vec::new();
    loop {
        let last: Option<&crate::Channel> = listed.last();
        let after = last.map(|channel| (channel.issuer.as_str(), channel.audience.as_str()));
        let mut page = ledger.channels(&view, after, 2).unwrap();
        if page.is_empty() {
            break;
        }
        listed.append(&mut page);
    }
    let heads: Vec<_> = listed
        .iter()
        .map(|channel| (channel.issuer.clone(), channel.audience.clone(), channel.seq))
        .collect();
    assert_eq!(heads, [(id(1), id(2), 2), (id(1), id(3), 299), (id(2), id(1), 4)]);
    assert_eq!(ledger.channel_head(&view, &id(2), &id(1)).unwrap(), Some((4, theirs[4].digest())));
    assert_eq!(ledger.channel_head(&view, &id(2), &id(3)).unwrap(), None);
    let held = |from, limit| {
        let held = ledger.statements_on_channel(&view, &id(2), &id(1), from, limit).unwrap();
        held.iter().map(|statement| statement.body().seq).collect::<Vec<_>>()
    };
    assert_eq!(held(0, 9), [0, 2, 4]);
    assert_eq!((held(1, 1), held(3, 9), held(5, 9), held(0, 0)), (vec![2], vec![4], vec![], vec![]));
}
