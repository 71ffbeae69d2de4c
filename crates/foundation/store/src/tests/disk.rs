//! What a disk promises, and that its failures come where a test wants them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn an_atomic_write_leaves_the_old_bytes_or_the_new() {
    for fault in [Fault::Io, Fault::NoSpace, Fault::Torn { bytes: 2 }, Fault::Everything] {
        let mut walked = 0;
        for at in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("name");
            fs::write(&path, "before").unwrap();
            let disk = Disk::failing(FaultPlan::nth(at, fault));
            let held = disk.directory(dir.path()).unwrap();
            let written = disk.write_atomically(&held, "name", b"after");
            assert_eq!(written.is_err(), disk.has_failed(), "{fault:?} at {at}");
            let bytes = fs::read_to_string(&path).unwrap();
            if written.is_ok() {
                assert_eq!(bytes, "after");
                break;
            }
            assert!(["before", "after"].contains(&bytes.as_str()), "{fault:?} at {at}: {bytes}");
            walked += 1;
        }
        // Create, write, sync, rename, sync of the directory.
        assert_eq!(walked, 5, "{fault:?}");
    }
}

#[test]
fn plans_count_what_they_are_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::failing(FaultPlan::nth_of(Operation::Write, 2, Fault::Torn { bytes: 3 }));
    let path = dir.path().join("file");
    let mut file = disk.create(&path).unwrap();
    file.write_all(b"one.").unwrap();
    file.sync().unwrap();
    assert!(!disk.has_failed());
    let torn = file.write_all(b"two.").unwrap_err();
    assert_eq!(torn.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(disk.has_failed());
    file.write_all(b"three").unwrap();
    file.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one.twothree");
    let counts = [Operation::Open, Operation::Write, Operation::Sync, Operation::Rename];
    assert_eq!(counts.map(|operation| disk.operations_of(operation)), [1, 3, 2, 0]);
    assert_eq!(disk.operations(), 6);

    disk.plan(FaultPlan::nth_of(Operation::Sync, 1, Fault::Everything));
    file.write_all(b"!").unwrap();
    assert!(!disk.has_failed());
    file.sync().unwrap_err();
    file.write_all(b"?").unwrap_err();
    disk.create(&path).unwrap_err();
    disk.remove(&path).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"one.twothree!");

    disk.plan(FaultPlan::nth(1, Fault::NoSpace));
    let full = file.truncate(0).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    file.truncate(3).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
}

#[test]
fn files_are_changed_in_place_copied_and_linked() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::real();
    let (one, two, three) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("3"));
    disk.create(&one).unwrap().write_all(b"0123456789").unwrap();
    disk.overwrite(&one).unwrap().write_at(b"ab", 4).unwrap();
    disk.append(&one).unwrap().write_all(b"c").unwrap();
    disk.copy(&one, &two, 6).unwrap();
    assert_eq!(fs::read(&two).unwrap(), b"0123ab");
    disk.copy(&one, &two, 12).unwrap_err();
    disk.hard_link(&one, &three).unwrap();
    disk.remove(&one).unwrap();
    assert_eq!(fs::read(&three).unwrap(), b"0123ab6789c");
    disk.append(&one).unwrap_err();
    disk.overwrite(&one).unwrap_err();
}

#[test]
fn directories_are_created_with_those_above_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c");
    let disk = Disk::counting();
    disk.create_directory(&path).unwrap();
    disk.create_directory(&path).unwrap();
    for made in [dir.path().join("a"), dir.path().join("a/b"), path.clone()] {
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(disk.operations_of(Operation::CreateDirectory), 3);
    // The name of one that exists may not be durable yet.
    assert_eq!(disk.operations_of(Operation::SyncDirectory), 4);
    fs::write(dir.path().join("file"), "").unwrap();
    disk.create_directory(&dir.path().join("file")).unwrap_err();
}
