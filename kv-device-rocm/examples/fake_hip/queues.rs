//! Streams and events.

use std::ffi::c_uint;

use crate::fake::{Fake, INVALID_HANDLE, INVALID_VALUE, Out, exported, handle_code, releasing};

exported! {
    fn hipStreamCreateWithFlags(stream: Out<u64>, flags: c_uint) |fake| {
        fake.ready()?;
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        stream.set(fake.machine.create_stream(fake.current()))
    }
    fn hipStreamSynchronize(stream: u64) |fake| {
        fake.machine.synchronize_stream(stream_of(fake, stream)).map_err(handle_code)
    }
    fn hipStreamQuery(stream: u64) |fake| {
        match fake.machine.query_stream(stream_of(fake, stream)).map_err(handle_code)? {
            true => Ok(()),
            false => Err(600),
        }
    }
    fn hipStreamWaitEvent(stream: u64, event: u64, flags: c_uint) |fake| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        fake.machine.wait(stream_of(fake, stream), event).map_err(handle_code)
    }
    fn hipEventCreateWithFlags(event: Out<u64>, _flags: c_uint) |fake| {
        fake.ready()?;
        event.set(fake.machine.create_event(fake.current()))
    }
    fn hipEventRecord(event: u64, stream: u64) |fake| {
        let stream = stream_of(fake, stream);
        let devices = (fake.machine.event_device(event), fake.machine.stream_device(stream));
        // "hipErrorInvalidHandle": also if the two are of different devices.
        if devices.0 != devices.1 {
            return Err(INVALID_HANDLE);
        }
        fake.machine.record(event, stream).map_err(handle_code)
    }
    fn hipEventQuery(event: u64) |fake| {
        match fake.machine.query_event(event).map_err(handle_code)? {
            true => Ok(()),
            false => Err(600),
        }
    }
    fn hipEventSynchronize(event: u64) |fake| { fake.machine.synchronize_event(event).map_err(handle_code) }
}

releasing! {
    fn hipStreamDestroy(stream: u64) |fake| { fake.machine.destroy_stream(stream).map_err(handle_code) }
    fn hipEventDestroy(event: u64) |fake| { fake.machine.destroy_event(event).map_err(handle_code) }
}

/// A stream's handle; null is the null stream of the thread's device.
pub(crate) fn stream_of(fake: &Fake, stream: u64) -> u64 {
    if stream != 0 {
        return stream;
    }
    let device = fake.current();
    *fake.objects().null_streams.entry(device).or_insert_with(|| fake.machine.create_stream(device))
}
