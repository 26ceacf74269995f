//! The Unix socket of a server: private from birth, and never in the place of anything alive.
//!
//! A socket is bound and listens inside a folder of mode 0700 beside its path, gets mode 0600 there, and
//! only then is linked under its path. A link never replaces what is there, so two servers that start
//! at once can't take the path from each other. A dead server's socket is probed and removed under a lock
//! of the folder that it lies in, so that nobody removes what another put in its place meanwhile.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use gabion_store_core::{Error, ErrorKind, Result};
use tracing::warn;

/// Longest path of a socket in bytes, without its NUL: 103 on macOS, 107 on Linux.
const MAX_PATH: usize = if cfg!(target_vendor = "apple") { 103 } else { 107 };
/// Dead sockets that are cleared away before giving up: more means that something keeps making them.
const MAX_ATTEMPTS: usize = 8;

/// A socket at a path, removed on drop if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// How often, and after which pause, the lock of a folder is tried. Another server holds it for less than
/// a millisecond; somebody else's lock must not hold us up for ever.
const LOCK_TRIES: (u32, Duration) = (100, Duration::from_millis(10));

/// Device and inode of a file.
type Identity = (u64, u64);

impl SocketFile {
    /// Makes a socket at `path`, which is absolute, and listens there. Blocks for a few file operations.
    ///
    /// Errors: `Invalid` if the path is too long, `Conflict` if a server listens there, `AlreadyExists`
    /// if something that is no socket is there.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener)> {
        let room = Room::beside(path)?;
        let fresh = room.0.join("s");
        for longest in [path, &fresh] {
            let length = longest.as_os_str().len();
            if length > MAX_PATH {
                return Err(Error::invalid(format!(
                    "the socket path {} is too long: {length} bytes of at most {MAX_PATH} (with room for a \
                     temporary name); choose a folder with a shorter path",
                    path.display()
                )));
            }
        }
        let at = |error| Error::io(format!("can't make the socket {}", path.display()), error);
        let listener = UnixListener::bind(&fresh).map_err(at)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(at)?;
        listener.set_nonblocking(true).map_err(at)?;
        let identity = identity_of(&fs::symlink_metadata(&fresh).map_err(at)?);
        for _ in 0..MAX_ATTEMPTS {
            match fs::hard_link(&fresh, path) {
                Ok(()) => return Ok((Self { path: path.to_owned(), identity }, listener)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => clear(path)?,
                Err(error) => return Err(at(error)),
            }
        }
        Err(in_use(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if identity_of(&found) == self.identity => {
                if let Err(error) = fs::remove_file(&self.path) {
                    warn!(path = %self.path.display(), %error, "can't remove the socket");
                }
            }
            // Someone else's, or gone.
            _ => {}
        }
    }
}

fn identity_of(found: &fs::Metadata) -> Identity {
    (found.dev(), found.ino())
}

fn in_use(path: &Path) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("a server listens on {}: stop it or choose another path", path.display()),
    )
}

/// Removes a dead server's socket at `path`; fails if anything else is there.
fn clear(path: &Path) -> Result<()> {
    let at = |error| Error::io(format!("can't look at {}", path.display()), error);
    let _lock = lock_folder(path)?;
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(at)?,
    };
    if !found.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("{} exists and is no socket: remove it or choose another path", path.display()),
        ));
    }
    match UnixStream::connect(path) {
        // Nobody can link another in its place before it is removed, and only we remove it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(at),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It may be alive; not being allowed to ask is no leave to remove it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(at(error)),
        Ok(_) | Err(_) => Err(in_use(path)),
    }
}

/// Locks the folder of a path, until the file is dropped.
fn lock_folder(path: &Path) -> Result<File> {
    let parent = path.parent().unwrap_or(path);
    let at = |error| Error::io(format!("can't lock {}", parent.display()), error);
    let folder = File::open(parent).map_err(at)?;
    let (tries, pause) = LOCK_TRIES;
    for _ in 0..tries {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) => sleep(pause),
            Err(TryLockError::Error(error)) => return Err(at(error)),
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("{} is locked by another process: remove {} by hand", parent.display(), path.display()),
    ))
}

/// A private folder beside the path of a socket, removed with what it holds on drop.
struct Room(PathBuf);

impl Room {
    fn beside(path: &Path) -> Result<Self> {
        let (Some(parent), Some(_)) = (path.parent(), path.file_name()) else {
            return Err(Error::invalid(format!("{} is no path for a socket", path.display())));
        };
        // A number may be left from a dead process that had our id.
        for number in 0..u32::MAX {
            let folder = parent.join(format!(".{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let what = format!("can't make a socket in {}", parent.display());
                    return Err(Error::io(what, error));
                }
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("no temporary name is free in {}", parent.display())))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            warn!(path = %self.0.display(), %error, "can't remove a temporary folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leftovers(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_socket_is_private_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let (socket, _listener) = SocketFile::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(leftovers(folder.path()), [path]);
        drop(socket);
        assert!(leftovers(folder.path()).is_empty());
    }

    #[test]
    fn a_live_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let _first = SocketFile::bind(&path).unwrap();
        let error = SocketFile::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        UnixStream::connect(&path).unwrap();
        assert_eq!(leftovers(folder.path()), [path]);
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _second = SocketFile::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(leftovers(folder.path()), [path]);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("f"), folder.path().join("l"));
        fs::write(&file, b"precious").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&file, &link] {
            assert_eq!(SocketFile::bind(path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert_eq!(leftovers(folder.path()).len(), 2);
    }

    #[test]
    fn a_path_that_is_too_long_names_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(MAX_PATH));
        let error = SocketFile::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(&MAX_PATH.to_string()), "{error}");
        assert!(leftovers(folder.path()).is_empty());
    }

    #[test]
    fn only_our_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let (socket, _listener) = SocketFile::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(socket);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn of_two_that_start_at_once_over_a_dead_socket_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        for _ in 0..100 {
            drop(UnixListener::bind(&path).unwrap());
            let bound: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..6).map(|_| scope.spawn(|| SocketFile::bind(&path))).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(bound.iter().filter(|result| result.is_ok()).count(), 1);
            UnixStream::connect(&path).unwrap();
            drop(bound);
            assert!(leftovers(folder.path()).is_empty());
        }
    }
}
