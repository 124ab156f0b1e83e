#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;

use futures::TryStreamExt;

use super::super::contract;
use super::*;

fn temporary_files(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join(TEMPORARY)) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn names(store: &FileStore) -> Vec<String> {
    let found: Vec<ObjectMeta> = store.list("", None).await.try_collect().await.unwrap();
    found.into_iter().map(|object| object.name).collect()
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    contract::run(|| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(FileStore::open(root.path().join(format!("new/{count}"))).unwrap())
    })
    .await;
}

#[tokio::test]
async fn temporary_files_go_away_and_are_never_listed() {
    let root = tempfile::tempdir().unwrap();
    let store = FileStore::open(root.path()).unwrap();
    store.create("a", Bytes::from_static(b"1")).await.unwrap();
    store
        .create("a", Bytes::from_static(b"2"))
        .await
        .unwrap_err();
    assert_eq!(temporary_files(root.path()), [""; 0]);

    let mut upload = store.upload("b").await.unwrap();
    upload.write(Bytes::from_static(b"part")).await.unwrap();
    assert_eq!(temporary_files(root.path()).len(), 1);
    assert_eq!(names(&store).await, ["a"]);
    drop(upload);
    assert_eq!(temporary_files(root.path()), [""; 0]);
}

#[tokio::test]
async fn leftovers_of_the_dead_are_swept_after_a_day_and_others_are_not() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(TEMPORARY);
    fs::create_dir(&directory).unwrap();
    let hour = Duration::from_secs(3600);
    for (name, age) in [("1-0", 25 * hour), ("1-1", 23 * hour)] {
        let file = File::create(directory.join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    let store = FileStore::open(root.path()).unwrap();
    store.create("a", Bytes::new()).await.unwrap();
    assert_eq!(temporary_files(root.path()), ["1-1"]);
}

#[tokio::test]
async fn another_process_with_the_same_id_does_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(TEMPORARY);
    fs::create_dir(&directory).unwrap();
    let theirs = directory.join(format!("{}-0", std::process::id()));
    fs::write(&theirs, b"theirs").unwrap();
    let store = FileStore::open(root.path()).unwrap();
    store
        .create("a", Bytes::from_static(b"ours"))
        .await
        .unwrap();
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"ours");
}

#[tokio::test]
async fn a_directory_that_is_removed_meanwhile_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let store = FileStore::open(root.path().join("store")).unwrap();
    store.create("d/a", Bytes::new()).await.unwrap();
    fs::remove_dir_all(root.path().join("store/d")).unwrap();
    store.create("d/b", Bytes::new()).await.unwrap();
    fs::remove_dir_all(root.path().join("store").join(TEMPORARY)).unwrap();
    store.create("d/c", Bytes::new()).await.unwrap();
    assert_eq!(names(&store).await, ["d/b", "d/c"]);
}

#[tokio::test]
async fn opening_or_reading_makes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("not/there");
    let store = FileStore::open(&path).unwrap();
    assert_eq!(names(&store).await, [""; 0]);
    assert!(matches!(
        store.read("a", None).await,
        Err(StoreError::NotFound { .. })
    ));
    store.delete("a").await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_in_the_way_is_a_permanent_error_that_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), b"").unwrap();
    let error = FileStore::open(root.path().join("file")).unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");

    let store = FileStore::open(root.path()).unwrap();
    let error = store.create("file/a", Bytes::new()).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
}

#[test]
fn errors_of_the_disk_say_what_to_do_and_whether_to_try_again() {
    for (kind, transient, advice) in [
        (io::ErrorKind::StorageFull, true, "the disk is full"),
        (io::ErrorKind::QuotaExceeded, true, "quota"),
        (
            io::ErrorKind::PermissionDenied,
            false,
            "let this user write",
        ),
        (
            io::ErrorKind::ReadOnlyFilesystem,
            false,
            "mount it writable",
        ),
        (io::ErrorKind::NotADirectory, false, "move it away"),
        (io::ErrorKind::Other, true, "mount"),
    ] {
        let error = cannot("create", "x/y", &kind.into());
        assert_eq!(error.is_transient(), transient, "{error}");
        let text = error.to_string();
        assert!(text.contains("x/y") && text.contains(advice), "{text}");
    }
}

#[test]
fn a_filesystem_without_hard_links_is_a_permanent_error_that_says_so() {
    const EPERM: i32 = 1;
    const EOPNOTSUPP: i32 = 95;
    const ENOSYS: i32 = 38;
    for code in [EPERM, EOPNOTSUPP, ENOSYS] {
        let error = link_error(io::Error::from_raw_os_error(code));
        let error = cannot("create", "x/y", &error);
        assert!(!error.is_transient(), "{error}");
        assert!(error.to_string().contains("needs hard links"), "{error}");
    }
    let other = link_error(io::ErrorKind::AlreadyExists.into());
    assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn lost_and_found_is_no_part_of_the_store() {
    let root = tempfile::tempdir().unwrap();
    let theirs = root.path().join(LOST_AND_FOUND);
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("#12"), b"").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o000)).unwrap();
    let store = FileStore::open(root.path()).unwrap();
    assert_eq!(names(&store).await, [""; 0]);
    store.create("d/lost+found/a", Bytes::new()).await.unwrap();
    assert_eq!(names(&store).await, ["d/lost+found/a"]);
    store
        .create("lost+found/a", Bytes::new())
        .await
        .unwrap_err();
    // So that it can be deleted.
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
}

/// An upload to a device instead of a file.
fn upload_to(root: &Path, device: &str) -> Box<FileUpload> {
    Box::new(FileUpload {
        shared: FileStore::open(root).unwrap().0,
        name: "a".to_owned(),
        temporary: Some(Temporary {
            file: File::options().write(true).open(device).unwrap(),
            path: PathBuf::from("/nowhere/at-all"),
        }),
        unflushed: 0,
        flush: None,
    })
}

#[tokio::test]
async fn a_full_disk_is_worth_another_try() {
    let root = tempfile::tempdir().unwrap();
    // It answers every write with ENOSPC.
    let mut upload = upload_to(root.path(), "/dev/full");
    let error = upload.write(Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().contains("the disk is full"), "{error}");
    let again = upload.write(Bytes::from_static(b"x")).await.unwrap_err();
    assert!(again.to_string().contains("begin it again"), "{again}");
}

#[tokio::test]
async fn a_flush_that_fails_beside_the_writing_fails_the_upload() {
    let root = tempfile::tempdir().unwrap();
    let much = Bytes::from(vec![0; FLUSH_EVERY as usize]);
    let is_told = |error: StoreError| {
        assert!(error.to_string().contains("cannot write a"), "{error}");
        assert!(error.to_string().contains("Invalid argument"), "{error}");
    };
    // It takes all that is written, and cannot be flushed.
    let mut upload = upload_to(root.path(), "/dev/null");
    upload.write(much.clone()).await.unwrap();
    is_told(upload.write(much.clone()).await.unwrap_err());
    upload.write(much.clone()).await.unwrap_err();
    upload.commit().await.unwrap_err();
    let mut upload = upload_to(root.path(), "/dev/null");
    upload.write(much).await.unwrap();
    is_told(upload.commit().await.unwrap_err());
}

#[tokio::test]
async fn a_directory_without_permission_is_a_permanent_error() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if File::create(root.path().join("probe")).is_ok() {
        return; // permissions do not hold root back
    }
    let store = FileStore::open(root.path()).unwrap();
    let error = store.create("a", Bytes::new()).await.unwrap_err();
    assert!(!error.is_transient());
    assert!(error.to_string().contains("let this user write"), "{error}");
}

#[tokio::test]
async fn what_links_into_the_store_is_followed_and_what_is_no_text_is_left_out() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("a"), b"far").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("link")).unwrap();
    std::os::unix::fs::symlink(".", elsewhere.path().join("circle")).unwrap();
    fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
    let store = FileStore::open(root.path()).unwrap();
    let found = names(&store).await;
    assert_eq!(found[0], "link/a");
    assert!(found.len() < 200 && found.iter().all(|name| name.ends_with("/a")));
}

#[tokio::test]
async fn a_directory_that_is_moved_is_not_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let (root, away) = (home.path().join("store"), home.path().join("away"));
    let store = FileStore::open(&root).unwrap();
    store.create("one", Bytes::from("1")).await.unwrap();
    fs::rename(&root, &away).unwrap();
    let gone = store.create("two", Bytes::from("2")).await.unwrap_err();
    assert!(gone.to_string().contains("is gone"), "{gone}");
    assert!(!root.exists());
    // A mount point without its mount.
    fs::create_dir(&root).unwrap();
    let other = store.create("two", Bytes::from("2")).await.unwrap_err();
    assert!(
        other.to_string().contains("is another one than before"),
        "{other}"
    );
    let upload = store.upload("two").await.map(drop).unwrap_err();
    assert!(upload.to_string().contains("is another one"), "{upload}");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    // One with other numbers that has what the store made is the store.
    fs::create_dir(root.join(TEMPORARY)).unwrap();
    store.create("three", Bytes::from("3")).await.unwrap();
    fs::remove_dir_all(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    store.create("two", Bytes::from("2")).await.unwrap();
    assert_eq!(names(&store).await, ["one", "two"]);
}
