//! A folder of this machine that is there as long as somebody holds it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Gone when dropped, with what is in it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// An empty one, and what it is in; nobody else may look into it.
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn copy(&self, path: PathBuf) -> io::Result<Self> {
        let copy = Self::make(path)?;
        copy_all(&self.0, &copy.0)?;
        Ok(copy)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a folder. What was killed a moment ago may still be writing, so a few attempts are made.
pub(super) fn remove(path: &Path) {
    for attempt in 0.. {
        match fs::remove_dir_all(path) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return,
            Err(error) if attempt == 50 => return tracing::error!("cannot remove {}: {error}", path.display()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Copies files, folders and links, with their modes. Sockets and pipes belong to who made them and stay.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, source, target) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_symlink() {
            symlink(fs::read_link(source)?, target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_all(&source, &target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
        } else if kind.is_file() {
            fs::copy(source, target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_copy_is_like_it_and_apart_from_it() {
        let root = std::env::temp_dir().join(format!("folder-{}", uuid::Uuid::new_v4()));
        let one = Folder::make(root.join("one")).unwrap();
        fs::create_dir(one.path().join("closed")).unwrap();
        fs::write(one.path().join("closed/run.sh"), b"\xff\0").unwrap();
        fs::set_permissions(one.path().join("closed/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(one.path().join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
        symlink("/nowhere", one.path().join("link")).unwrap();
        let other = one.copy(root.join("other")).unwrap();
        let mode = |path: &str| fs::metadata(other.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("closed"), mode("closed/run.sh")), (0o700, 0o500, 0o755));
        assert_eq!(fs::read(other.path().join("closed/run.sh")).unwrap(), b"\xff\0");
        assert_eq!(fs::read_link(other.path().join("link")).unwrap(), Path::new("/nowhere"));
        fs::set_permissions(one.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        drop(one);
        assert!(!root.join("one").exists() && other.path().join("link").symlink_metadata().is_ok());
        fs::set_permissions(other.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        drop(other);
        remove(&root);
        assert!(!root.exists());
    }
}
