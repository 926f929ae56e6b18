//! The C functions that kv-storage uses, with the real one's codes.
#![allow(
    clippy::missing_safety_doc,
    clippy::allow_attributes,
    reason = "the contract is that of NIXL's wrapper.h"
)]
#![allow(clippy::not_unsafe_ptr_arg_deref, reason = "C functions take what they are given")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileExt as _;

use crate::end;
use crate::machine::{Agent, BACKEND, DONE, GOES_ON, INVALID, Range, Request, die, letters};

type Handle = *mut c_void;

/// Gives an object away.
fn give<T>(object: T, into: *mut Handle) -> c_int {
    // SAFETY: the caller passes a place for a handle, as every function of the interface that makes an object asks.
    unsafe { into.write(Box::into_raw(Box::new(object)).cast()) };
    DONE
}

/// An object that was given away.
fn lent<'a, T>(handle: Handle) -> &'a mut T {
    if handle.is_null() {
        die("a null handle");
    }
    // SAFETY: the caller passes a handle that `give` made for this type and that was not taken back, and uses it on one thread.
    unsafe { &mut *handle.cast::<T>() }
}

/// Takes an object back.
fn take<T>(handle: Handle) -> c_int {
    if handle.is_null() {
        return INVALID;
    }
    // SAFETY: as in `lent`; the caller gives the handle back once.
    drop(unsafe { Box::from_raw(handle.cast::<T>()) });
    DONE
}

fn text(text: *const c_char) -> String {
    // SAFETY: the caller passes a NUL-terminated text.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A list of descriptors with their texts.
struct List {
    kind: c_uint,
    ranges: Vec<(Range, String)>,
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_configured_agent(
    name: *const c_char,
    _: *const c_void,
    agent: *mut Handle,
) -> c_int {
    if text(name).is_empty() { INVALID } else { give(Agent::new(), agent) }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_agent(agent: Handle) -> c_int {
    let checked = lent::<Agent>(agent).checked();
    if checked.under_way > 0 {
        die("an agent is destroyed while it moves bytes");
    }
    end::destroy(checked.parameters.get("fake_end").cloned().as_deref(), || take::<Agent>(agent))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_params(params: *mut Handle) -> c_int {
    give(Vec::<(String, String)>::new(), params)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_params_add(
    params: Handle,
    key: *const c_char,
    value: *const c_char,
) -> c_int {
    lent::<Vec<(String, String)>>(params).push((text(key), text(value)));
    DONE
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_params(params: Handle) -> c_int {
    take::<Vec<(String, String)>>(params)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_backend(
    agent: Handle,
    plugin: *const c_char,
    params: Handle,
    backend: *mut Handle,
) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    agent.parameters = lent::<Vec<(String, String)>>(params).iter().cloned().collect();
    if agent.mode() == "refuse" {
        return BACKEND;
    }
    end::loaded();
    give(text(plugin), backend)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_backend(backend: Handle) -> c_int {
    take::<String>(backend)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_opt_args(arguments: *mut Handle) -> c_int {
    give(0_usize, arguments)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_opt_args_add_backend(arguments: Handle, _: Handle) -> c_int {
    *lent::<usize>(arguments) += 1;
    DONE
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_opt_args(arguments: Handle) -> c_int {
    take::<usize>(arguments)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_reg_dlist(kind: c_uint, list: *mut Handle) -> c_int {
    give(List { kind, ranges: Vec::new() }, list)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_reg_dlist_add_desc(
    list: Handle,
    address: usize,
    len: usize,
    device: u64,
    about: *const c_void,
    about_len: usize,
) -> c_int {
    let list = lent::<List>(list);
    let about = match about_len {
        0 => &[],
        // SAFETY: the caller passes as many bytes as it says.
        len => unsafe { std::slice::from_raw_parts(about.cast::<u8>(), len) },
    };
    let range = Range { kind: list.kind, address, len, device };
    list.ranges.push((range, String::from_utf8_lossy(about).into_owned()));
    DONE
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_reg_dlist(list: Handle) -> c_int {
    take::<List>(list)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_register_mem(agent: Handle, list: Handle, _: Handle) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    for (range, text) in &lent::<List>(list).ranges {
        agent.register(*range, text.clone());
    }
    DONE
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_deregister_mem(agent: Handle, list: Handle, _: Handle) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    lent::<List>(list).ranges.iter().map(|(range, _)| agent.forget(*range)).min().unwrap_or(DONE)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_xfer_dlist(kind: c_uint, list: *mut Handle) -> c_int {
    give(List { kind, ranges: Vec::new() }, list)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_xfer_dlist_add_desc(
    list: Handle,
    address: usize,
    len: usize,
    device: u64,
) -> c_int {
    let list = lent::<List>(list);
    list.ranges.push((Range { kind: list.kind, address, len, device }, String::new()));
    DONE
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_xfer_dlist(list: Handle) -> c_int {
    take::<List>(list)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_xfer_req(
    agent: Handle,
    operation: c_uint,
    near: Handle,
    far: Handle,
    _: *const c_char,
    request: *mut Handle,
    _: Handle,
) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    if agent.mode() == "fail-create" {
        return BACKEND;
    }
    let only = |list: Handle| match lent::<List>(list).ranges.as_slice() {
        [(range, _)] => *range,
        ranges => die(&format!("{} descriptors, expected 1", ranges.len())),
    };
    let (near, far) = (only(near), only(far));
    drop(agent.key(near));
    let (key, questions) = (agent.key(far), agent.questions());
    agent.under_way += 1;
    give(
        Request { into_memory: operation == 0, near, far, key, posted: false, questions, ended: None },
        request,
    )
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_post_xfer_req(agent: Handle, request: Handle, _: Handle) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    let request = lent::<Request>(request);
    if agent.mode() == "fail-post" {
        request.ended = Some(BACKEND);
        return BACKEND;
    }
    request.posted = true;
    GOES_ON
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_get_xfer_status(agent: Handle, request: Handle) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    let request = lent::<Request>(request);
    if let Some(ended) = request.ended {
        return ended;
    }
    request.questions = request.questions.saturating_sub(1);
    if request.questions > 0 || (request.into_memory && agent.hangs()) {
        return GOES_ON;
    }
    let status = if agent.mode() == "fail" { BACKEND } else { moved(agent, request) };
    *request.ended.insert(status)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_release_xfer_req(agent: Handle, request: Handle) -> c_int {
    let agent = lent::<Agent>(agent).checked();
    let request = lent::<Request>(request);
    if request.posted && request.ended.is_none() {
        die("a request is released while its bytes are moved");
    }
    agent.under_way -= 1;
    DONE
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_xfer_req(request: Handle) -> c_int {
    take::<Request>(request)
}

/// Moves the bytes of a transfer, or as many as the mode says.
fn moved(agent: &Agent, request: &Request) -> c_int {
    let most = agent.most(request.near.len);
    let memory = std::ptr::with_exposed_provenance_mut::<u8>(request.near.address);
    // SAFETY: the range is registered, so it is memory of the caller's that nothing else uses while the transfer is under way.
    let memory = unsafe { std::slice::from_raw_parts_mut(memory, most) };
    if request.far.kind == 3 {
        letters(&request.key, request.far.address, memory);
        return DONE;
    }
    let Ok(number) = c_int::try_from(request.far.device) else { return INVALID };
    // SAFETY: the caller keeps the file open until the transfer has ended; it is not closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(number) });
    let offset = request.far.address as u64;
    let done = if request.into_memory {
        file.read_exact_at(memory, offset)
    } else {
        file.write_all_at(memory, offset)
    };
    if done.is_ok() { DONE } else { BACKEND }
}
