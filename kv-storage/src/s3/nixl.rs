//! What the store of NIXL's plugin OBJ has from this one: the same bucket, keys and credentials.

use kv_format::ObjectName;
use object_store::aws::AmazonS3ConfigKey;

use super::S3Store;
use super::settings::Settings;
use super::{Arc, S3Options};
use crate::parts::Admission;
use crate::{Error, ErrorKind, Result};

impl S3Store {
    /// As [`open`](Self::open), with the parameters by which the plugin reaches the same bucket.
    pub(crate) async fn open_for_nixl(
        url: &str,
        options: S3Options,
    ) -> Result<(Self, Vec<(&'static str, String)>)> {
        let credentials = options.credentials.clone();
        let settings = Arc::new(Settings::from_environment(url, options)?);
        let mut parameters = settings.nixl_parameters()?;
        if let Some(credentials) = credentials {
            let given = credentials.get_credential().await.map_err(|error| {
                let message = format!("the credentials that were given cannot be had: {error}");
                Error::new(ErrorKind::PermissionDenied, &settings.label, message).with_source(error)
            })?;
            parameters.push(("access_key", given.key_id.clone()));
            parameters.push(("secret_key", given.secret_key.clone()));
            parameters.extend(given.token.clone().map(|token| ("session_token", token)));
        }
        Ok((Self::open_with(&settings).await?, parameters))
    }

    /// The key of an object in the bucket.
    pub(crate) fn key(&self, name: &ObjectName) -> String {
        self.core.path(&name.to_string()).to_string()
    }

    /// What counts this store's operations.
    pub(crate) fn admission(&self) -> &Admission {
        &self.core.admission
    }
}

impl Settings {
    fn nixl_parameters(&self) -> Result<Vec<(&'static str, String)>> {
        let value = |key| self.builder.get_config_value(&key);
        for (key, name) in [
            (AmazonS3ConfigKey::VirtualHostedStyleRequest, "virtual_hosted"),
            (AmazonS3ConfigKey::SkipSignature, "anonymous"),
        ] {
            if value(key).is_some_and(|value| value == "true") {
                let message = format!(
                    "{name}=true: NIXL signs every request and has the bucket in the path; leave it out, or use s3://"
                );
                return Err(Error::new(ErrorKind::Unsupported, &self.label, message));
            }
        }
        let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        let mut parameters = vec![("bucket", self.bucket.clone()), ("region", region)];
        if let Some(endpoint) = &self.endpoint {
            let scheme = endpoint.split_once("://").map_or("https", |(scheme, _)| scheme);
            parameters.extend([("endpoint_override", endpoint.clone()), ("scheme", scheme.to_owned())]);
        }
        if let Some(certificates) = &self.certificates {
            parameters.push(("ca_bundle", certificates.display().to_string()));
        }
        Ok(parameters)
    }
}
