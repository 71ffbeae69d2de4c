//! The object face: published products that lie in S3-compatible storage or on web servers, and delivered files that go
//! into S3.
//!
//! * [`Location`] is a URL: `s3://bucket/key`, `s3://bucket/prefix/`, `https://host/path`.
//! * [`Objects::list`] says what lies there, each [`Object`] with its size and version (ETag, else `Last-Modified`).
//!   [`Objects::find`] finds again what was listed, whatever others have put beside it.
//! * [`Objects::reader`] reads ranges of an object in that version. Bytes of another version are never taken, whatever
//!   the server answers.
//! * [`Objects::begin`] and [`Objects::put`] put a local file where no object is, in parts if it is larger than 8 MiB.
//!   [`Upload`] is what the caller stores in between; after a crash the server says which parts it has.
//!   [`Objects::abort`] leaves nothing behind.
//!
//! Everything is bounded: tries, silence, time in all, redirects (4, never away from HTTPS or into this network, none of S3),
//! answers, pages, parts under way. A node trusts the public authorities or the certificates that its operator names, and
//! never both. No proxy is used and no environment variable is read.
//!
//! Of the house it knows the seams that it fills: where the catalog's products lie (`sources`), and where deliveries go
//! (`depot`). It speaks HTTP/1.1 and the ten requests of S3 that it needs itself,
//! because what clients offer in general leaves out what counts here: an upload that is completed only where no object
//! is, the list of the parts that arrived, user metadata on uploads in parts, and keys as they stand.

mod depot;
mod error;
mod location;
mod net;
mod objects;
mod reader;
mod s3;
mod settings;
mod sign;
mod sources;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upload;
mod version;
mod web;

pub use error::ObjectError;
pub use location::{Location, MAX_LOCATION_BYTES};
pub use objects::{Object, Objects};
pub use reader::ObjectReader;
pub use settings::{Bucket, Now, Settings};
pub use upload::{MAX_OBJECT_BYTES, PART_BYTES, Upload};
