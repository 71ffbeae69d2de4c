//! What the node reaches besides its own files: buckets and web servers, as configured.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use huitong_objects::{Bucket, Objects, Settings};
use huitong_proof::Clock;
use zeroize::Zeroizing;

use crate::config::{BucketAccess, ObjectStores};
use crate::error::StartError;

/// The longest access key, and the longest file of certificates, in bytes.
const LONGEST_KEY: u64 = 1 << 10;
const LONGEST_CERTIFICATES: u64 = 4 << 20;

/// Connects to nothing yet: a store that is away does not keep a node from starting.
pub(crate) fn objects(stores: &ObjectStores, clock: Arc<dyn Clock>) -> Result<Objects, StartError> {
    let now = move || SystemTime::UNIX_EPOCH + Duration::from_millis(clock.now().millis());
    let mut settings = Settings::new(Arc::new(now));
    settings.allow_http = stores.allow_http;
    settings.ca_certificate = stores.ca_file.as_deref().map(certificates).transpose()?;
    let buckets = stores.buckets.iter().map(bucket).collect::<Result<_, _>>()?;
    Objects::new(buckets, &settings).map_err(|error| StartError::Io {
        what: "objects in the configuration".to_owned(),
        reason: error.to_string(),
    })
}

fn bucket(access: &BucketAccess) -> Result<Bucket, StartError> {
    let BucketAccess {
        name,
        endpoint,
        region,
        path_style,
        access_key_id,
        secret_access_key_file,
        allow_http,
        ca_file,
    } = access.clone();
    Ok(Bucket {
        name,
        endpoint,
        region,
        path_style,
        access_key_id,
        secret_access_key: secret(&secret_access_key_file)?,
        allow_http,
        ca_certificate: ca_file.as_deref().map(certificates).transpose()?,
    })
}

/// The access key in a file that nobody else may read, without the line's end.
fn secret(path: &Path) -> Result<Zeroizing<String>, StartError> {
    let what = || format!("objects.buckets.secret_access_key_file {}", path.display());
    let mode = std::fs::metadata(path).map_err(StartError::io(what()))?.permissions().mode();
    if mode & 0o077 != 0 {
        let reason = format!("mode {:04o} lets others read it; set it to 0600", mode & 0o7777);
        return Err(StartError::Io { what: what(), reason });
    }
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(StartError::io(what()))?;
    file.take(LONGEST_KEY.saturating_add(1)).read_to_string(&mut text).map_err(StartError::io(what()))?;
    check_length(what(), text.len(), LONGEST_KEY)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn certificates(path: &Path) -> Result<Vec<u8>, StartError> {
    let what = || format!("objects ca_file {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(StartError::io(what()))?;
    file.take(LONGEST_CERTIFICATES.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(StartError::io(what()))?;
    check_length(what(), bytes.len(), LONGEST_CERTIFICATES)?;
    Ok(bytes)
}

fn check_length(what: String, length: usize, longest: u64) -> Result<(), StartError> {
    if length as u64 <= longest {
        return Ok(());
    }
    Err(StartError::Io { what, reason: format!("is longer than {longest} bytes; is it the right file?") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(
            matches!(secret(&path), Err(StartError::Io { what, .. }) if what.contains("secret_access_key_file"))
        );
        std::fs::write(&path, "key\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        assert!(matches!(secret(&path), Err(StartError::Io { reason, .. }) if reason.contains("0600")));
        mode(0o600);
        assert_eq!(secret(&path).unwrap().as_str(), "key");
        std::fs::write(&path, vec![b'k'; 1025]).unwrap();
        assert!(matches!(secret(&path), Err(StartError::Io { reason, .. }) if reason.contains("longer")));
        std::fs::write(&path, vec![b'k'; (4 << 20) + 1]).unwrap();
        assert!(
            matches!(certificates(&path), Err(StartError::Io { reason, .. }) if reason.contains("longer"))
        );
    }
}
