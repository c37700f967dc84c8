//! The loop on the client thread: issue what is due, read what arrives, stop when told.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

use super::bodies::Bodies;
use super::{Ended, Report, Session, report_finished};
use crate::client::{self, Client, until};
use crate::clock::Clock;
use crate::connection::{Connection, Reading};
use crate::endpoint::RequestTemplate;
use crate::http::Pool;
use crate::issuer::{At, Issuer};
use crate::pacing::Pacer;
use crate::websocket::Sockets;

/// Bodies are built while at least this much time is left.
const TIME_TO_BUILD: Duration = Duration::from_millis(1);

pub(super) struct PaceLoop<'s> {
    session: &'s Session<'s>,
    client: Client<'s>,
    clock: Clock,
    pacer: Pacer,
    issuer: Issuer<'s>,
    bodies: Bodies<'s>,
    reports: mpsc::Sender<Report>,
    /// Why issuing stopped, and when requests in flight are given up.
    stopped: Option<(Ended, At)>,
}

pub(super) struct Paced {
    pub elapsed: At,
    pub issued: u64,
    pub ended: Ended,
}

enum Next {
    Due,
    Build,
    Finished(client::Ended),
    Stop(Ended),
    GiveUp,
}

impl<'s> PaceLoop<'s> {
    pub(super) fn new(
        session: &'s Session<'s>,
        clock: Clock,
        template: RequestTemplate,
        pool: Pool<Connection>,
        reports: mpsc::Sender<Report>,
    ) -> io::Result<Self> {
        let client = Client {
            endpoint: session.endpoint,
            template,
            pool: Arc::new(pool),
            reading: Reading::new(clock),
            sockets: Sockets::default(),
            clock,
            observer: session.observer,
            abandon: CancellationToken::new(),
        };
        let issuer = Issuer::new(session.workload);
        let pacer = Pacer::new(clock)?;
        Ok(PaceLoop {
            session,
            client,
            clock,
            pacer,
            issuer,
            bodies: Bodies::new(session.endpoint, session.workload),
            reports,
            stopped: None,
        })
    }

    pub(super) async fn run(self) -> Paced {
        let PaceLoop { session, client, clock, mut pacer, mut issuer, mut bodies, reports, mut stopped } =
            self;
        let mut in_flight: FuturesUnordered<LocalBoxFuture<'_, client::Ended>> = FuturesUnordered::new();
        let limit = session.time_limit.map(|limit| clock.deadline(limit));
        loop {
            let due = if stopped.is_some() { None } else { issuer.next_due() };
            if due.is_none() && in_flight.is_empty() {
                break;
            }
            let spare = stopped.is_none() && bodies.wants_more() && spare_time(due, clock.now());
            // In this order: reading what arrived comes before sending more, because a late timestamp is an error in a
            // result and a late send is a number in it (the records hold both times).
            let some_in_flight = !in_flight.is_empty();
            let reading = poll_fn(|context| {
                client.reading.begin_turn();
                in_flight.poll_next_unpin(context)
            });
            let next = tokio::select! {
                biased;
                Some(ended) = reading, if some_in_flight => Next::Finished(ended),
                () = session.stop.cancelled(), if stopped.is_none() => Next::Stop(Ended::Cancelled),
                () = until(limit), if stopped.is_none() => Next::Stop(Ended::TimeLimit),
                () = until(stopped.map(|(_, until)| clock.deadline(until))), if !client.abandon.is_cancelled() => Next::GiveUp,
                () = session.give_up.cancelled(), if !client.abandon.is_cancelled() => Next::GiveUp,
                () = pacer.until(due.unwrap_or_default()), if due.is_some() => Next::Due,
                // Yields first: what was just handed to a connection is written before time goes into the next body.
                () = tokio::task::yield_now(), if spare => Next::Build,
            };
            match next {
                Next::Due => {
                    if let Some((scheduled, request)) = issuer.issue() {
                        in_flight.push(Box::pin(client.run(request, scheduled, bodies.take(request))));
                    }
                }
                Next::Finished(client::Ended { record, said }) => {
                    issuer.on_finished(clock.now(), record.index);
                    bodies.answered(record.index, said);
                    report_finished(&reports, record);
                }
                Next::Build => bodies.build_ahead(),
                Next::Stop(why) => stopped = Some((why, clock.now().saturating_add(session.drain))),
                Next::GiveUp => {
                    stopped.get_or_insert((Ended::Cancelled, clock.now()));
                    client.abandon.cancel();
                }
            }
        }
        let ended = if issuer.remaining() == 0 && !client.abandon.is_cancelled() {
            Ended::Complete
        } else {
            stopped.map_or(Ended::Complete, |(why, _)| why)
        };
        Paced { elapsed: clock.now(), issued: issuer.issued() as u64, ended }
    }
}

/// Nothing is about to be due.
fn spare_time(due: Option<At>, now: At) -> bool {
    due.is_none_or(|due| due.saturating_sub(now) >= TIME_TO_BUILD)
}
