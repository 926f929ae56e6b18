//! Calls to several members side by side.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// One call among others.
pub(super) type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Drives all calls until each has answered; the answers in order.
pub(super) async fn together<T>(calls: Vec<Call<'_, T>>) -> Vec<T> {
    let mut calls: Vec<(Option<Call<'_, T>>, Option<T>)> =
        calls.into_iter().map(|call| (Some(call), None)).collect();
    poll_fn(|context| {
        let mut waiting = false;
        for (slot, answer) in &mut calls {
            let Some(call) = slot else { continue };
            match call.as_mut().poll(context) {
                Poll::Ready(ready) => {
                    *answer = Some(ready);
                    *slot = None;
                }
                Poll::Pending => waiting = true,
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    calls.into_iter().filter_map(|(_, answer)| answer).collect()
}
