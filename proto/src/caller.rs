//! Which protocol the sender of a call speaks, in the call's metadata.

use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

const PROTOCOL: &str = "trawl-protocol";

/// Has every call of a client say which protocol it speaks at most. Protocol 1 did not say it.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub u32);

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if self.0 > 1 {
            request.metadata_mut().insert(PROTOCOL, self.0.into());
        }
        Ok(request)
    }
}

/// The newest protocol that the sender of a call speaks; 1 for one that says none.
pub fn protocol_of(metadata: &MetadataMap) -> u32 {
    let said = metadata.get(PROTOCOL).and_then(|value| value.to_str().ok());
    said.and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_call_says_what_its_sender_speaks() {
        for protocol in [1, 2, 17] {
            let request = Caller(protocol).call(Request::new(())).unwrap();
            assert_eq!(protocol_of(request.metadata()), protocol);
        }
    }
}
