//! The file system itself: files in memory, every attribute and name kept as POSIX says, and each call asked of the script first.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use kv_storage::env::Environment;

use super::script::{Answer, Call, Script};

/// The kernel keeps no name and no attribute: every call arrives here.
const NOT_CACHED: Duration = Duration::ZERO;

/// The file system of a script.
pub(super) struct MemoryFs {
    script: Script,
    state: Mutex<State>,
}

struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

struct Node {
    attr: FileAttr,
    bytes: Vec<u8>,
    children: BTreeMap<String, u64>,
}

impl MemoryFs {
    pub(super) fn new(script: Script) -> Self {
        let mut state = State { nodes: BTreeMap::new(), next: 1 };
        let root = state.make(FileType::Directory, 0o700, (0, 0));
        assert_eq!(root, 1, "the root's number is fixed");
        Self { script, state: Mutex::new(state) }
    }

    /// The state, unless the script says how the call fails.
    fn enter(&self, call: Call) -> Result<MutexGuard<'_, State>, Errno> {
        match self.script.answer(call) {
            Some(Answer::Fails(errno)) => Err(errno),
            Some(other) => panic!("{call:?} cannot answer {other:?}"),
            None => Ok(self.state()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.script.pass();
        self.state.lock().unwrap()
    }

    /// Asks the script about a call that changes names, and makes it.
    fn change<T>(&self, call: Call, make: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        match self.script.answer(call) {
            Some(Answer::Fails(errno)) => Err(errno),
            Some(Answer::DoneBut(errno)) => make(&mut self.state()).and(Err(errno)),
            Some(Answer::Short(_)) => panic!("{call:?} moves no bytes"),
            None => make(&mut self.state()),
        }
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(Environment::default().clock.unix_millis())
}

impl State {
    fn make(&mut self, kind: FileType, mode: u32, (uid, gid): (u32, u32)) -> u64 {
        let (ino, time) = (self.next, now());
        self.next += 1;
        let attr = FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: u16::try_from(mode & 0o7777).unwrap(),
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        self.nodes.insert(ino, Node { attr, bytes: Vec::new(), children: BTreeMap::new() });
        ino
    }

    fn node(&mut self, ino: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino).ok_or(Errno::ESTALE)
    }

    fn child(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        let name = text(name)?;
        self.node(parent.0)?.children.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// Makes a file or directory under a name that is free.
    fn add(
        &mut self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let ino = self.make(kind, mode, (req.uid(), req.gid()));
        self.node(parent.0)?.children.insert(text(name)?.to_owned(), ino);
        Ok(self.node(ino)?.attr)
    }

    fn link(&mut self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.node(parent.0)?.children.insert(text(name)?.to_owned(), ino.0);
        let node = self.node(ino.0)?;
        node.attr.nlink += 1;
        Ok(node.attr)
    }

    fn unlink(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let ino = self.child(parent, name)?;
        self.node(parent.0)?.children.remove(text(name)?);
        self.node(ino)?.attr.nlink -= 1;
        Ok(())
    }

    fn rename(
        &mut self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let ino = self.child(from.0, from.1)?;
        if let Ok(over) = self.child(to.0, to.1) {
            if flags.contains(RenameFlags::RENAME_NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            if !self.node(over)?.children.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            self.unlink(to.0, to.1)?;
        }
        self.node(from.0.0)?.children.remove(text(from.1)?);
        self.node(to.0.0)?.children.insert(text(to.1)?.to_owned(), ino);
        Ok(())
    }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&NOT_CACHED, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn attr(result: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&NOT_CACHED, &attr),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for MemoryFs {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        let found = state.child(parent, name).and_then(|ino| Ok(state.node(ino)?.attr));
        entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attr(self.state().node(ino.0).map(|node| node.attr), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let changed = state.node(ino.0).map(|node| {
            if let Some(mode) = mode {
                node.attr.perm = u16::try_from(mode & 0o7777).unwrap();
            }
            if let Some(size) = size {
                node.bytes.resize(usize::try_from(size).unwrap(), 0);
                node.attr.size = size;
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => node.attr.mtime = time,
                Some(TimeOrNow::Now) => node.attr.mtime = now(),
                None => {}
            }
            (node.attr.uid, node.attr.gid) = (uid.unwrap_or(node.attr.uid), gid.unwrap_or(node.attr.gid));
            node.attr
        });
        attr(changed, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(self.state().add(req, parent, name, FileType::Directory, mode & !umask), reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let make = |state: &mut State| state.add(req, parent, name, FileType::RegularFile, mode & !umask);
        match self.change(Call::Create, make) {
            Ok(attr) => {
                reply.created(&NOT_CACHED, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.script.pass();
        // Without the page cache, the store's calls and their lengths arrive here as it makes them.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let most = match self.script.answer(Call::Read) {
            Some(Answer::Fails(errno)) => return reply.error(errno),
            Some(Answer::Short(bytes)) => bytes,
            Some(other) => panic!("a read cannot answer {other:?}"),
            None => usize::MAX,
        };
        match self.state().node(ino.0) {
            Ok(node) => {
                let start = usize::try_from(offset).unwrap().min(node.bytes.len());
                let len = usize::try_from(size).unwrap().min(most).min(node.bytes.len() - start);
                reply.data(&node.bytes[start..start + len]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let most = match self.script.answer(Call::Write) {
            Some(Answer::Fails(errno)) => return reply.error(errno),
            Some(Answer::Short(bytes)) => bytes,
            Some(other) => panic!("a write cannot answer {other:?}"),
            None => usize::MAX,
        };
        let data = &data[..data.len().min(most)];
        match self.state().node(ino.0) {
            Ok(node) => {
                let start = usize::try_from(offset).unwrap();
                node.bytes.resize(node.bytes.len().max(start + data.len()), 0);
                node.bytes[start..start + data.len()].copy_from_slice(data);
                node.attr.size = node.bytes.len() as u64;
                reply.written(u32::try_from(data.len()).unwrap());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        empty(self.enter(Call::Flush).map(drop), reply);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.enter(Call::Fsync).map(drop), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.enter(Call::FsyncDir).map(drop), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.change(Call::Link, |state| state.link(ino, parent, name)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(Call::Unlink, |state| state.unlink(parent, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let removed = state.child(parent, name).and_then(|ino| match state.node(ino)?.children.is_empty() {
            true => state.unlink(parent, name),
            false => Err(Errno::ENOTEMPTY),
        });
        empty(removed, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let make = |state: &mut State| state.rename((parent, name), (to_parent, to_name), flags);
        empty(self.change(Call::Rename, make), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.state();
        let children = match state.node(ino.0) {
            Ok(node) => node.children.clone(),
            Err(errno) => return reply.error(errno),
        };
        let own = [(".".to_owned(), ino.0), ("..".to_owned(), ino.0)];
        let skip = usize::try_from(offset).unwrap();
        for (next, (name, child)) in (1..).zip(own.into_iter().chain(children)).skip(skip) {
            let kind = state.node(child).map_or(FileType::RegularFile, |node| node.attr.kind);
            if reply.add(INodeNo(child), next, kind, &name) {
                break;
            }
        }
        reply.ok();
    }
}
