//! When a child of ours must end.

/// Resolves on SIGTERM, SIGINT, or when standard input closes and the parent asked for that.
pub async fn shutdown(exit_with_parent: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    let parent_gone = async {
        match exit_with_parent.then(parent_watch).flatten() {
            Some(gone) => drop(gone.await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        // A terminal's Ctrl-C reaches parent and child alike; the parent decides when its child stops.
        _ = interrupt.recv(), if !exit_with_parent => {}
        _ = parent_gone => {}
    }
}

/// A thread that reads standard input until it closes, which the system does when the parent dies, however it dies.
fn parent_watch() -> Option<tokio::sync::oneshot::Receiver<()>> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("parent-watch".into())
        .spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = tell.send(());
        })
        .ok()?;
    Some(told)
}
