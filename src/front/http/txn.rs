//! Transactions as JSON.

use std::time::Instant;

use super::condition::Condition;
use super::params::Params;
use super::told::{bad_body, invalid, not_read, object};
use super::{HttpFront, Task};
use crate::kv::api::{Consistency, TxnResult};
use crate::kv::json::{self, CommittedJson};
use crate::kv::{COMMAND_LEN_MAX, Identity};
use crate::rpc::http::{Request, Response};

impl HttpFront {
    pub(super) fn txn(&self, request: &mut Request<'_>) -> Result<Task, Response> {
        let params = Params::read(request, &["stale", "timeout"])?;
        let condition = Condition::read(request, &params)?;
        condition.check_empty("the conditions of a transaction are its comparisons")?;
        let body = request.body().read_all(COMMAND_LEN_MAX).map_err(|error| bad_body(&error))?;
        let txn = json::txn(&body).map_err(invalid)?;
        // A read takes no effect, so it needs no key to be sent again.
        if !txn.is_read() {
            if params.consistency != Consistency::Linearizable {
                return Err(invalid("?stale is for transactions that read alone"));
            }
            return Ok(self.write(txn, &params, |revision, answer| {
                object(200, &CommittedJson::new(revision, answer.held, &answer.answers))
            }));
        }
        let (api, deadline) = (self.api.clone(), Instant::now() + params.timeout);
        Ok(Box::new(move |answer| {
            let identity = Identity::default();
            api.txn(identity, txn, params.consistency, deadline, move |result| {
                answer.send(match result {
                    Ok(done) => match done.answer {
                        TxnResult::Whole(answer) => {
                            let (held, answers) = (answer.held, &answer.answers);
                            let json = CommittedJson::new(done.revision, held, answers);
                            super::key::with_age(object(200, &json), done.age_max)
                        }
                        TxnResult::Forgotten(_) => panic!("a read is never a repeat"),
                    },
                    Err(error) => not_read(&error),
                });
            });
        }))
    }
}
