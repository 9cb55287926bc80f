//! The admission webhook, called by the API server.

use anyhow::{Context as _, Result};
use controller_api::v1alpha1::model_serving::ModelServing;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tests::cluster::certificates::Certificates;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::poll;
use tests::scratch::Scratch;
use tokio::sync::Semaphore;

use crate::stage::{SOON, Stage, role, spec};

const CONFIGURATION: &str = "kthena-controller-manager-validating-webhook";
const SECRET: &str = "kthena-controller-manager-webhook-certs";

/// There is one configuration in a cluster, so the tests take turns.
static TURN: Semaphore = Semaphore::const_new(1);

/// The API server asks this operator, and it alone, about the ModelServings of the stage.
struct Registered {
    stage: Stage,
    operator: Operator,
    configurations: Api<ValidatingWebhookConfiguration>,
}

impl Registered {
    async fn new(label: &str) -> Result<Self> {
        Self::with(label, |options| options, None).await
    }

    /// With flags of the caller's, and whom the API server is to believe.
    async fn with(
        label: &str,
        flags: impl FnOnce(OperatorOptions) -> OperatorOptions,
        authority: Option<ByteString>,
    ) -> Result<Self> {
        let stage = Stage::without_operator(label).await?;
        let options = stage.operator_options().flag("--enable-webhook", true).flag("--port", 0);
        let operator = flags(options).start().await?;
        let configurations = Api::all(stage.namespace.client());
        let address = operator.logged_address("webhookAddress");
        let address = address.with_context(|| format!("no webhookAddress in:\n{}", operator.log()))?;
        let configuration = serde_json::from_value(json!({
            "metadata": {"name": CONFIGURATION},
            "webhooks": [{
                "name": "validate-workload-ai-v1alpha1-modelserving.volcano.sh",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "clientConfig": {
                    "url": format!("https://{address}/validate-workload-ai-v1alpha1-modelserving"),
                    "caBundle": authority,
                },
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace.name()}},
                "rules": [{
                    "apiGroups": ["workload.serving.volcano.sh"], "apiVersions": ["v1alpha1"],
                    "operations": ["CREATE", "UPDATE"], "resources": ["modelservings"],
                }],
            }],
        }))?;
        configurations.delete(CONFIGURATION, &DeleteParams::default()).await.ok();
        configurations.create(&PostParams::default(), &configuration).await?;
        let registered = Self { stage, operator, configurations };
        registered.wait_asked().await?;
        Ok(registered)
    }

    /// Waits until the API server refuses what only the webhook refuses.
    async fn wait_asked(&self) -> Result<()> {
        let asked = poll::until("a refusal by the webhook", SOON, async || {
            let refusal = self.ask(unknown_plugin()).await.err()?.to_string();
            refusal.contains("denied the request").then_some(())
        });
        asked.await.with_context(|| format!("the operator said:\n{}", self.operator.log()))
    }

    /// Creates a ModelServing and forgets it.
    async fn ask(&self, spec: Value) -> Result<(), kube::Error> {
        let serving = serde_json::from_value(json!({
            "apiVersion": "workload.serving.volcano.sh/v1alpha1", "kind": "ModelServing",
            "metadata": {"name": "llm"}, "spec": spec,
        }));
        let serving: ModelServing = serving.map_err(kube::Error::SerdeError)?;
        let params = PostParams { dry_run: true, ..PostParams::default() };
        self.stage.namespace.api().create(&params, &serving).await.map(drop)
    }

    async fn bundle(&self) -> Result<Option<ByteString>> {
        let webhooks = self.configurations.get(CONFIGURATION).await?.webhooks.unwrap_or_default();
        Ok(webhooks.into_iter().next().context("a webhook")?.client_config.ca_bundle)
    }

    /// Whom the API server is to believe from now on.
    async fn believe(&self, authority: &ByteString) -> Result<()> {
        let change = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": authority}]);
        let patch = Patch::Json::<()>(serde_json::from_value(change)?);
        self.configurations.patch(CONFIGURATION, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn certificate(&self) -> Result<ByteString> {
        let secret = self.stage.namespace.api::<Secret>().get(SECRET).await?;
        secret.data.and_then(|mut data| data.remove("tls.crt")).context("tls.crt")
    }

    /// Nobody else is to be asked.
    async fn unregister(self) -> Result<()> {
        self.configurations.delete(CONFIGURATION, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// What the rules of the definition cannot know.
fn unknown_plugin() -> Value {
    let mut spec = spec(1, &[role("decode", 1, 0)]);
    spec["plugins"] = json!([{"name": "demo-pod-tweak"}]);
    spec
}

#[tokio::test]
async fn the_api_server_passes_on_what_is_wrong() -> Result<()> {
    let _turn = TURN.acquire().await?;
    let registered = Registered::new("webhook-refuses").await?;
    registered.ask(spec(1, &[role("decode", 1, 0)])).await?;

    let mut bad = unknown_plugin();
    bad["template"]["roles"][0]["entryTemplate"]["spec"]["initContainers"] = json!([{"name": "a", "image": "a b"}]);
    let refusal = registered.ask(bad).await.unwrap_err().to_string();
    for part in [
        "denied the request: validation failed:\n  - ",
        "\n  - spec.plugins[0]: there is no plugin \"demo-pod-tweak\", did you mean \"demo-pod-tweaks\"?",
        "\n  - spec.template.roles[0].entryTemplate.spec.initContainers[0].image: ",
    ] {
        assert!(refusal.contains(part), "{refusal} says nothing of {part:?}");
    }
    registered.unregister().await
}

#[tokio::test]
async fn a_new_certificate_is_believed_from_its_first_moment_and_the_old_one_to_its_last() -> Result<()> {
    let _turn = TURN.acquire().await?;
    let registered = Registered::new("webhook-renews").await?;
    let first = registered.certificate().await?;
    let served = || registered.operator.log().matches("Serving a certificate.").count();
    assert_eq!(served(), 1);

    registered.stage.namespace.api::<Secret>().delete(SECRET, &DeleteParams::default()).await?;
    // Every question is answered, before the new certificate is shown, and after.
    let (mut asked, mut after) = (0, 0);
    poll::until("twenty answers with the new certificate", SOON, async || {
        asked += 1;
        after += usize::from(served() == 2);
        let refusal = registered.ask(unknown_plugin()).await.unwrap_err().to_string();
        assert!(refusal.contains("denied the request"), "question {asked}: {refusal}");
        (after == 20).then_some(())
    })
    .await?;
    assert!(registered.certificate().await? != first, "the Secret has another certificate");
    registered.unregister().await
}

#[tokio::test]
async fn an_authority_that_somebody_took_away_is_written_again() -> Result<()> {
    let _turn = TURN.acquire().await?;
    let registered = Registered::new("webhook-authority").await?;
    let bundle = registered.bundle().await?;
    assert!(bundle.is_some());
    let lost = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(lost)?);
    registered.configurations.patch(CONFIGURATION, &PatchParams::default(), &patch).await?;
    poll::until("the authority", SOON, async || (registered.bundle().await.ok()? == bundle).then_some(())).await?;
    registered.wait_asked().await?;
    registered.unregister().await
}

#[tokio::test]
async fn certificate_files_are_read_again_when_they_change_and_their_authority_is_left_to_whoever_wrote_them()
-> Result<()> {
    let _turn = TURN.acquire().await?;
    let scratch = Scratch::new("webhook-files")?;
    let (certificate, key) = (scratch.file("tls.crt"), scratch.file("tls.key"));
    let write = |made: &Certificates| -> Result<ByteString> {
        std::fs::write(&certificate, &made.certificate)?;
        std::fs::write(&key, &made.key)?;
        Ok(ByteString(made.authority.clone().into_bytes()))
    };
    let new = || Certificates::new(std::net::Ipv4Addr::LOCALHOST.into());
    let (first, second) = (new()?, new()?);
    let authority = write(&first)?;
    let flags = |options: OperatorOptions| {
        options.flag("--tls-cert-file", certificate.display()).flag("--tls-private-key-file", key.display())
    };
    let registered = Registered::with("webhook-files", flags, Some(authority.clone())).await?;
    assert_eq!(registered.bundle().await?, Some(authority));
    assert!(registered.certificate().await.is_err(), "there is a Secret beside the files");

    // Files that cannot be used are passed over.
    std::fs::write(&key, "no key")?;
    poll::until("a word about the files", SOON, async || {
        registered.operator.log().contains("Keeping the last good certificate.").then_some(())
    })
    .await?;
    registered.wait_asked().await?;

    // Only the second authority is believed, so only the second certificate is.
    registered.believe(&ByteString(second.authority.clone().into_bytes())).await?;
    poll::until("a certificate that is not believed", SOON, async || {
        registered.ask(unknown_plugin()).await.err()?.to_string().contains("x509").then_some(())
    })
    .await?;
    let authority = write(&second)?;
    registered.wait_asked().await?;
    assert_eq!(registered.bundle().await?, Some(authority));
    registered.unregister().await
}
