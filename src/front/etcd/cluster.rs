//! etcd's service `Cluster`: who the members are, and where clients reach them.

use std::sync::Arc;
use std::time::Instant;

use super::asked::{Ended, TIMEOUT};
use super::error::EtcdError;
use super::out::Object;
use super::parse::Fields;
use super::{EtcdFront, Shared, Task, ok};
use crate::kv::api::{Api, Consistency, Read};
use crate::kv::model::Revision;
use crate::raft::MemberId;

impl EtcdFront {
    pub(super) fn member_list(&self, fields: &Fields<'_>) -> Result<Task, EtcdError> {
        let is_linearizable = fields.flag("linearizable")?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(move |answer| {
            let told = Arc::clone(&shared);
            // The list is the same everywhere, and what is asked is whether a majority is there.
            let ask = move |api: &Api, deadline, end: Ended<()>| match is_linearizable {
                false => end(Ok(())),
                true => api.stats(Consistency::Linearizable, deadline, move |result| {
                    end(result.map(|Read { .. }| ()));
                }),
            };
            shared.retried(Instant::now() + TIMEOUT, ask, move |result| {
                answer.send(match result {
                    Ok(()) => ok(|body| told.list_members(body)),
                    Err(error) => error.response(),
                });
            });
        }))
    }
}

impl Shared {
    fn list_members(&self, body: &mut Object<'_>) {
        // etcd's header has no revision here.
        self.header().write(body, Revision::NONE);
        self.members(body);
    }

    /// All members, with the URLs that they advertise.
    pub(super) fn members(&self, body: &mut Object<'_>) {
        body.objects("members", self.api.members().iter(), |member, (id, addr)| {
            let MemberId(number) = id;
            member.number("ID", number);
            member.text("name", &number.to_string());
            member.texts("peerURLs", [&format!("http://{addr}")]);
            member.texts("clientURLs", &self.urls.of(id));
            member.flag("isLearner", self.api.is_learner(id));
        });
    }
}
