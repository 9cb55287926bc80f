//! A certificate that all replicas share, in a Secret, made and renewed by whichever comes first.
//!
//! Order matters: the API server learns of a new authority before anyone shows a certificate from it, and forgets the
//! one before only with the next renewal. So a call is believed at every moment, whichever replica answers.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::certificate::{Material, Verdict};
use super::{Certificate, Settings};

/// The configuration that names this webhook to the API server: Kthena's.
const CONFIGURATION: &str = "kthena-controller-manager-validating-webhook";

/// Who writes, as it is said to the API server.
const MANAGER: &str = "kthena-controller-manager";

/// The label of a Secret that may be written: one that a person or cert-manager made is only read.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// How long an API server may take to notice a new authority.
const SETTLE: Duration = Duration::from_secs(5);

/// How often the certificate's end is thought of when nothing changes.
const LOOK: Duration = Duration::from_secs(60);

/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the Secret, the `caBundle` and the served certificate right.
pub(super) struct Upkeep {
    secrets: Api<Secret>,
    configurations: Api<ValidatingWebhookConfiguration>,
    namespace: String,
    secret: String,
    names: Vec<String>,
}

/// What the watches told last; none before the first word.
#[derive(Default)]
struct Seen {
    secret: Option<Option<Secret>>,
    configuration: Option<Option<ValidatingWebhookConfiguration>>,
}

/// What is served, and what will be.
#[derive(Default)]
struct Served {
    now: Option<Material>,
    next: Option<(Instant, Material)>,
}

impl Upkeep {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        let Settings { namespace, secret, service, .. } = settings;
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client),
            namespace: namespace.clone(),
            secret: secret.clone(),
            // The last three are for a process outside the cluster.
            names: [
                format!("{service}.{namespace}.svc"),
                format!("{service}.{namespace}.svc.cluster.local"),
                "localhost".to_owned(),
                "127.0.0.1".to_owned(),
                "::1".to_owned(),
            ]
            .into(),
        }
    }

    /// Follows both objects, for ever. `ready` is called when a certificate is served that the API server believes.
    pub(super) async fn follow(self, certificate: &Certificate, ready: impl Fn()) -> anyhow::Result<()> {
        let mut secrets = watch_object(self.secrets.clone(), &self.secret).default_backoff().boxed();
        let mut configurations = watch_object(self.configurations.clone(), CONFIGURATION).default_backoff().boxed();
        let (mut seen, mut served, mut pause) = (Seen::default(), Served::default(), LOOK);
        loop {
            let due = served.next.as_ref().map_or_else(|| Instant::now() + pause, |(when, _)| *when);
            tokio::select! {
                secret = secrets.try_next() => match secret {
                    Ok(secret) => seen.secret = Some(secret.flatten()),
                    Err(error) => warn!(%error, secret = self.secret, "Cannot watch the webhook's Secret."),
                },
                configuration = configurations.try_next() => match configuration {
                    Ok(configuration) => seen.configuration = Some(configuration.flatten()),
                    Err(error) => warn!(%error, configuration = CONFIGURATION, "Cannot watch the configuration."),
                },
                () = sleep_until(due) => {}
            }
            pause = match self.pass(&mut seen, &mut served).await {
                Ok(()) => LOOK,
                Err(error) => {
                    warn!(%error, "The webhook's certificate is not as it should be; trying again.");
                    RETRY
                }
            };
            if served.next.as_ref().is_some_and(|(when, _)| *when <= Instant::now())
                && let Some((_, material)) = served.next.take()
            {
                certificate.install(material.server_config()?);
                info!(secret = self.secret, "Serving a certificate.");
                served.now = Some(material);
                ready();
            }
        }
    }

    /// Brings Secret, configuration and plan for the served certificate one step further.
    async fn pass(&self, seen: &mut Seen, served: &mut Served) -> anyhow::Result<()> {
        let Some(secret) = &seen.secret else { return Ok(()) };
        let owner = seen.configuration.as_ref().and_then(Option::as_ref).and_then(owner);
        let material = match self.material(secret.as_ref(), served.now.as_ref(), owner.as_ref()).await? {
            Kept::Found(material) => material,
            Kept::Written(material, secret) => {
                seen.secret = Some(Some(*secret));
                material
            }
            Kept::Useless => return Ok(()),
        };
        let announced = self.announce(seen, &material).await;
        if announced.is_err() && served.now.is_some() {
            return announced;
        }
        let current = served.next.as_ref().map(|(_, material)| material).or(served.now.as_ref());
        if current != Some(&material) {
            // The first is served at once, even unannounced: nothing else could be believed meanwhile.
            let when = if served.now.is_some() { Instant::now() + SETTLE } else { Instant::now() };
            served.next = Some((when, material));
        }
        announced
    }

    /// The certificate of the Secret, made or renewed if that is due. Who deletes the Secret gets another, and the one
    /// that is `served` is believed until then.
    async fn material(
        &self,
        secret: Option<&Secret>,
        served: Option<&Material>,
        owner: Option<&OwnerReference>,
    ) -> anyhow::Result<Kept> {
        let found = secret.and_then(read);
        let (name, now) = (self.names.first().map(String::as_str).unwrap_or_default(), Timestamp::now());
        let ours = secret
            .is_none_or(|secret| found.is_none() || secret.labels().get(MANAGED_BY).is_some_and(|it| it == MANAGER));
        // Made before the configuration was: it does not go with it yet.
        let orphaned = ours && secret.is_some_and(|secret| owner.is_some_and(|owner| !is_owned(secret, owner)));
        match (&found, found.as_ref().map(|found| found.judge(name, now))) {
            (Some(found), Some(Verdict::Good)) if orphaned => return self.keep(found.clone(), secret, owner).await,
            (Some(found), Some(Verdict::Good)) => return Ok(Kept::Found(found.clone())),
            (Some(found), Some(Verdict::Renew)) if !ours => return Ok(Kept::Found(found.clone())),
            (Some(_), Some(Verdict::Useless(error))) if !ours => {
                warn!(%error, secret = self.secret, "The Secret's certificate cannot be used. Delete the Secret to have one made.");
                return Ok(Kept::Useless);
            }
            (_, Some(Verdict::Useless(error))) => warn!(%error, "The certificate cannot be used: making another."),
            (_, Some(Verdict::Renew)) => info!("The certificate ends soon: making another."),
            _ => info!("There is no certificate: making one."),
        }
        self.keep(Material::make(&self.names, now, found.as_ref().or(served))?, secret, owner).await
    }

    /// Writes the Secret with `made`, in place of `secret`.
    async fn keep(
        &self,
        made: Material,
        secret: Option<&Secret>,
        owner: Option<&OwnerReference>,
    ) -> anyhow::Result<Kept> {
        let wanted = write(&self.namespace, &self.secret, &made, secret, owner);
        let written = match secret {
            None => self.secrets.create(&PostParams::default(), &wanted).await,
            Some(_) => self.secrets.replace(&self.secret, &PostParams::default(), &wanted).await,
        };
        match written {
            Ok(written) => Ok(Kept::Written(made, Box::new(written))),
            // Another replica was faster; the watch brings what it wrote.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Kept::Useless),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the API server whom to believe.
    async fn announce(&self, seen: &mut Seen, material: &Material) -> anyhow::Result<()> {
        let Some(Some(configuration)) = &seen.configuration else { return Ok(()) };
        if material.authorities.is_empty() || bundle_patch(configuration, &material.authorities).is_none() {
            return Ok(());
        }
        // A watch may lag: nobody goes back to the authority before.
        let newest = self.secrets.get_opt(&self.secret).await?;
        if newest.as_ref().and_then(read).as_ref() != Some(material) {
            seen.secret = Some(newest);
            return Ok(());
        }
        if let Some(patch) = bundle_patch(configuration, &material.authorities) {
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let patched = self.configurations.patch(CONFIGURATION, &params, &Patch::Strategic(patch)).await?;
            info!(configuration = CONFIGURATION, "Wrote the webhook's authority.");
            seen.configuration = Some(Some(patched));
        }
        Ok(())
    }
}

/// What became of the Secret.
enum Kept {
    /// It is good.
    Found(Material),
    /// It was written.
    Written(Material, Box<Secret>),
    /// There is nothing to serve in it.
    Useless,
}

/// The certificate in a Secret; none if it has none, as one that was made to be filled.
fn read(secret: &Secret) -> Option<Material> {
    let value = |key: &str| Some(secret.data.as_ref()?.get(key)?.0.clone()).filter(|value| !value.is_empty());
    Some(Material {
        certificate: value("tls.crt")?,
        key: value("tls.key")?,
        authorities: value("ca.crt").unwrap_or_default(),
    })
}

/// The configuration as an owner: whoever takes it away needs no certificate for it any more.
fn owner(configuration: &ValidatingWebhookConfiguration) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: ValidatingWebhookConfiguration::api_version(&()).into_owned(),
        kind: ValidatingWebhookConfiguration::kind(&()).into_owned(),
        name: configuration.metadata.name.clone()?,
        uid: configuration.metadata.uid.clone()?,
        ..OwnerReference::default()
    })
}

fn is_owned(secret: &Secret, owner: &OwnerReference) -> bool {
    secret.owner_references().iter().any(|known| known.uid == owner.uid)
}

/// The Secret with `material`, in place of `before`.
fn write(
    namespace: &str,
    name: &str,
    material: &Material,
    before: Option<&Secret>,
    owner: Option<&OwnerReference>,
) -> Secret {
    let mut metadata = before.map(|before| before.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    });
    metadata.managed_fields = None;
    metadata.labels.get_or_insert_default().insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    // In place of a predecessor, whose end would take the Secret with it.
    metadata.owner_references = owner.map(|owner| vec![owner.clone()]).or(metadata.owner_references);
    let Material { certificate, key, authorities } = material;
    let data = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", authorities)];
    Secret {
        metadata,
        // The type of a Secret cannot be changed.
        type_: before.map_or_else(|| Some("kubernetes.io/tls".to_owned()), |before| before.type_.clone()),
        data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value.clone()))).into()),
        ..Secret::default()
    }
}

/// A strategic merge patch that gives every webhook of the configuration this `caBundle`; none if all have it.
fn bundle_patch(configuration: &ValidatingWebhookConfiguration, bundle: &[u8]) -> Option<Value> {
    let webhooks = configuration.webhooks.iter().flatten();
    let stale = webhooks.filter(|webhook| webhook.client_config.ca_bundle.as_ref().is_none_or(|it| it.0 != bundle));
    let bundle = ByteString(bundle.to_vec());
    let patches: Vec<_> =
        stale.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    (!patches.is_empty()).then(|| json!({"webhooks": patches}))
}

#[cfg(test)]
mod tests;
