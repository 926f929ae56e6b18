//! Streams and events.

use std::ptr;

use kv_device_hpu::sys::{DeviceId, Handle, Status};

use crate::fake::{DEVICE, device_call, handle_code, number, put};

/// A number of the machine as a handle.
fn handle(number: u64) -> Handle {
    ptr::without_provenance_mut(usize::try_from(number).unwrap_or(0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synStreamCreateGeneric(out: *mut Handle, _device: DeviceId, _flags: u32) -> Status {
    device_call("synStreamCreateGeneric", |fake| {
        if out.is_null() {
            return Err(Status::NULL_POINTER);
        }
        // SAFETY: the vendor's contract: one handle.
        unsafe { put(out, handle(fake.machine().create_stream(DEVICE))) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn synStreamDestroy(stream: Handle) -> Status {
    device_call("synStreamDestroy", |fake| {
        let destroyed = fake.machine().destroy_stream(number(stream));
        destroyed.map_err(|error| handle_code(error, Status::INVALID_ARGUMENT))
    })
}

#[unsafe(no_mangle)]
extern "C" fn synStreamSynchronize(stream: Handle) -> Status {
    device_call("synStreamSynchronize", |fake| {
        let done = fake.machine().synchronize_stream(number(stream));
        done.map_err(|error| handle_code(error, Status::INVALID_ARGUMENT))
    })
}

#[unsafe(no_mangle)]
extern "C" fn synStreamQuery(stream: Handle) -> Status {
    device_call("synStreamQuery", |fake| {
        let idle = fake.machine().query_stream(number(stream));
        match idle.map_err(|error| handle_code(error, Status::INVALID_ARGUMENT))? {
            true => Ok(()),
            false => Err(Status::BUSY),
        }
    })
}

/// Lazy, as the vendor's: the stream's queue holds the wait, and later work runs into it.
#[unsafe(no_mangle)]
extern "C" fn synStreamWaitEvent(stream: Handle, event: Handle, _flags: u32) -> Status {
    device_call("synStreamWaitEvent", |fake| {
        let machine = fake.machine();
        if machine.event_device(number(event)).is_none() {
            return Err(Status::INVALID_EVENT_HANDLE);
        }
        let waits = machine.wait(number(stream), number(event));
        waits.map_err(|error| handle_code(error, Status::INVALID_ARGUMENT))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synEventCreate(out: *mut Handle, _device: DeviceId, _flags: u32) -> Status {
    device_call("synEventCreate", |fake| {
        if out.is_null() {
            return Err(Status::NULL_POINTER);
        }
        // SAFETY: the vendor's contract: one handle.
        unsafe { put(out, handle(fake.machine().create_event(DEVICE))) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn synEventDestroy(event: Handle) -> Status {
    device_call("synEventDestroy", |fake| {
        let destroyed = fake.machine().destroy_event(number(event));
        destroyed.map_err(|error| handle_code(error, Status::INVALID_EVENT_HANDLE))
    })
}

#[unsafe(no_mangle)]
extern "C" fn synEventRecord(event: Handle, stream: Handle) -> Status {
    device_call("synEventRecord", |fake| {
        let machine = fake.machine();
        if machine.event_device(number(event)).is_none() {
            return Err(Status::INVALID_EVENT_HANDLE);
        }
        let recorded = machine.record(number(event), number(stream));
        recorded.map_err(|error| handle_code(error, Status::INVALID_ARGUMENT))
    })
}

#[unsafe(no_mangle)]
extern "C" fn synEventQuery(event: Handle) -> Status {
    device_call("synEventQuery", |fake| {
        let reached = fake.machine().query_event(number(event));
        match reached.map_err(|error| handle_code(error, Status::INVALID_EVENT_HANDLE))? {
            true => Ok(()),
            false => Err(Status::BUSY),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn synEventSynchronize(event: Handle) -> Status {
    device_call("synEventSynchronize", |fake| {
        let reached = fake.machine().synchronize_event(number(event));
        reached.map_err(|error| handle_code(error, Status::INVALID_EVENT_HANDLE))
    })
}
