//! Where the servers that this process starts keep their files.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use nix::sys::statvfs::{FsFlags, statvfs};
use uuid::Uuid;

/// Files in memory, on Linux.
const MEMORY: &str = "/dev/shm";
/// Ten times what the clusters of all tests were seen to take.
const ROOM_BYTES: u64 = 2 << 30;

/// Waits for the end of its standard input, which comes with the end of whoever started it, and then for its servers,
/// which end by that, too; removes their folder.
const REMOVER: &str = r#"
read -r _
tries=100
while [ $((tries -= 1)) -gt 0 ] && ls "$1"/*/cluster/postmaster.pid; do sleep 0.1; done
rm -rf -- "$1"
"#;

/// The folder of this process, which is removed when the process has gone, however it ended. Every user can enter it.
pub(crate) fn folder() -> &'static Path {
    /// The remover's standard input is open as long as this is kept, and a static is never dropped.
    static FOLDER: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (folder, _) = FOLDER.get_or_init(|| {
        let folder = base().join(format!("nxt-test-{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a temporary folder can be made");
        let remover = remove_after_us(&folder).expect("a shell can be run");
        (folder, remover)
    });
    folder
}

/// In memory where there is plenty of it. A database is some five hundred files, and a file system without a journal
/// takes half a second of a processor to make so many soon after as many were removed.
fn base() -> PathBuf {
    match is_roomy(Path::new(MEMORY)) {
        true => MEMORY.into(),
        false => std::env::temp_dir(),
    }
}

/// Whether clusters find room in `folder`, and a server that had to be fetched could be run from there.
#[allow(clippy::useless_conversion, reason = "other systems count in 32 bits")]
fn is_roomy(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|system| {
        let free = u64::from(system.blocks_available()).saturating_mul(system.fragment_size().into());
        free >= ROOM_BYTES && !system.flags().contains(FsFlags::ST_NOEXEC)
    })
}

/// In a process group of its own, so that what ends this process's group leaves it alone.
fn remove_after_us(folder: &Path) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", REMOVER, "nxt-test-remover"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
