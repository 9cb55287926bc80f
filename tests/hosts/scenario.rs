//! What the scenarios of the guide start from: the chart's picker and operator, engines as the manifests select them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::client::Reply;
use tests::cluster::operator::{Operator, OperatorOptions};
use tests::engine::{Engine, EngineConfig};
use tests::gateways::installed::{self, PORTS};
use tests::picker::{Picker, PickerOptions};
use tests::poll;

use crate::host::Host;
use crate::objects::Objects;
use crate::sandbox::address;
use crate::stage::{ENGINE_PORT, PATIENCE, SOON, Stage, tail};

/// The chart's picker serves every pool, and is a process at this address.
const PICKER_HOST: u8 = 33;
/// Engines are at this address and those behind it; none is used twice, as gateways keep connections.
const FIRST_ENGINE: u8 = 40;
/// A host without its own example's route, and with what the chart installs. [`Scenario::end`] puts all back.
pub(crate) struct Scenario<'a, H> {
    pub(crate) stage: &'a mut Stage<H>,
    /// By the names of their pods.
    engines: Vec<(String, Engine)>,
    next: u8,
    /// Manifests that were applied, in this order.
    applied: Vec<String>,
    pub(crate) picker: Picker,
    pub(crate) operator: Operator,
}

impl<'a, H: Host> Scenario<'a, H> {
    /// # Errors
    /// When something does not start.
    pub(crate) async fn start(stage: &'a mut Stage<H>) -> Result<Self> {
        Self::start_with(stage, &[], &[]).await
    }

    /// The same with more values of the chart, and the flags that it then gives the operator.
    ///
    /// # Errors
    /// When something does not start.
    pub(crate) async fn start_with(stage: &'a mut Stage<H>, values: &[&str], flags: &[(&str, &str)]) -> Result<Self> {
        stage.objects.delete(&Objects::example(&format!("{}/route.yaml", H::NAME))?).await?;
        let installed = installed::manifests(&[&["picker.modelName.enabled=true"], values].concat()).await?;
        stage.objects.apply(&installed).await?;

        let ip = address(PICKER_HOST);
        let picker = PickerOptions::of_cluster(&stage.act_as("kthena-ext-proc")?)
            .at(ip)
            .flag("--model-name-port", 9004)
            .flag("--scheduler-config", stage.by_chance.display())
            .traces(&stage.sink.endpoint())
            .start()
            .await?;
        stage.objects.create_listening_pod("kthena-ext-proc-0", &installed::picker_labels(), ip, &PORTS).await?;
        let options = OperatorOptions::new(stage.act_as("kthena-controller-manager")?);
        let operator = flags.iter().fold(options, |options, (flag, value)| options.flag(flag, value)).start().await?;
        Ok(Self { stage, engines: Vec::new(), next: FIRST_ENGINE, applied: vec![installed], picker, operator })
    }

    /// Puts everything back as it was, and says what was said if `told` is not well.
    ///
    /// # Errors
    /// Those of `told`, and what the API server has against it.
    pub(crate) async fn end(mut self, told: Result<()>) -> Result<()> {
        let told = told.with_context(|| self.said());
        let left = self.leave().await;
        told.and(left)
    }

    async fn leave(&mut self) -> Result<()> {
        self.clear().await?;
        let objects = &self.stage.objects;
        for manifests in self.applied.drain(..).rev() {
            objects.delete(&manifests).await?;
        }
        objects.remove_pod("kthena-ext-proc-0").await?;
        objects.apply(&Objects::example(&format!("{}/route.yaml", H::NAME))?).await
    }

    /// Takes everything away that came since the start.
    ///
    /// # Errors
    /// What the API server has against it.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        let objects = &self.stage.objects;
        for manifests in self.applied.drain(1..).rev() {
            objects.delete(&manifests).await?;
        }
        for (pod, _) in self.engines.drain(..) {
            objects.remove_pod(&pod).await?;
        }
        Ok(())
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// What the API server has against one.
    pub(crate) async fn apply(&mut self, manifests: String) -> Result<()> {
        self.applied.push(manifests);
        self.stage.objects.apply(self.applied.last().context("it was just put there")?).await
    }

    /// Applies a file of `gateway-api-examples` as it is.
    ///
    /// # Errors
    /// What the API server has against it.
    pub(crate) async fn apply_example(&mut self, file: &str) -> Result<()> {
        self.apply(Objects::example(file)?).await.with_context(|| file.to_owned())
    }

    /// Puts the step before the route in front of all routes.
    ///
    /// # Errors
    /// What the API server has against it.
    pub(crate) async fn name_models_first(&mut self) -> Result<()> {
        self.apply_example(&format!("model-name-routing/{}.yaml", H::NAME)).await
    }

    /// An engine more; without labels its pod is there already.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn add_engine(&mut self, pod: &str, labels: Option<Value>, config: EngineConfig) -> Result<()> {
        let ip = address(self.next);
        self.next += 1;
        let config = EngineConfig { address: (ip, ENGINE_PORT).into(), ..config };
        let engine = Engine::start(config.traces(self.stage.sink.address())).await?;
        match labels {
            Some(labels) => self.stage.objects.create_pod(pod, &labels, ip).await?,
            None => {
                self.stage.objects.bind_pod(pod).await?;
                self.stage.objects.run_pod(pod, ip).await?;
            }
        }
        self.engines.push((pod.to_owned(), engine));
        Ok(())
    }

    /// An engine more, in a pod of another namespace, which the caller removes.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn add_engine_of(
        &mut self,
        namespace: &str,
        pod: &str,
        labels: &Value,
        config: EngineConfig,
    ) -> Result<()> {
        let ip = address(self.next);
        self.next += 1;
        let engine = Engine::start(EngineConfig { address: (ip, ENGINE_PORT).into(), ..config }).await?;
        self.engines.push((pod.to_owned(), engine));
        self.stage.objects.of(namespace).create_pod(pod, labels, ip).await
    }

    /// The engine of a pod.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn engine(&self, pod: &str) -> Result<&Engine> {
        let found = self.engines.iter().find(|(name, _)| name == pod);
        found.map(|(_, engine)| engine).with_context(|| format!("no engine {pod}"))
    }

    /// The pod whose engine answered, and nobody else was asked who should not.
    ///
    /// # Errors
    /// When none did.
    pub(crate) fn pod(&self, reply: &Reply) -> Result<&str> {
        ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
        let served: SocketAddr = reply.engine().context("no engine answered")?;
        let found = self.engines.iter().find(|(_, engine)| engine.address() == served);
        found.map(|(pod, _)| pod.as_str()).with_context(|| format!("{served} answered, which is no engine of ours"))
    }

    /// That a request was answered by the endpoint that its decision names. Returns the decision.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) async fn picked(&self, reply: &Reply) -> Result<Value> {
        let id = reply.request_id().context("an answer without a request id")?;
        let decision = self.picker.decision(&id).await?;
        let served = reply.engine().context("no engine answered")?.to_string();
        ensure!(decision["endpoint"] == served, "{served} served, the decision is {decision:#}");
        Ok(decision)
    }

    /// Asks `ask`, whose prompt no other has, until a pod whose name begins so answers: what was applied is in force.
    ///
    /// # Errors
    /// When it does not come to it in time.
    pub(crate) async fn wait_for(&self, ask: &Ask, pod: &str) -> Result<()> {
        let mut last = String::new();
        let what = format!("an answer by {pod} to {ask:?}");
        let found = poll::until(&what, SOON, async || {
            match self.send(ask).await.and_then(|reply| self.pod(&reply).map(ToOwned::to_owned)) {
                Ok(served) if served.starts_with(pod) => Some(()),
                Ok(served) => {
                    last = served;
                    None
                }
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            }
        });
        found.await.with_context(|| format!("the last answer: {last}"))
    }

    /// Waits until `ask` is answered with this status.
    ///
    /// # Errors
    /// When it does not come to it in time.
    pub(crate) async fn wait_for_status(&self, ask: &Ask, status: u16) -> Result<Reply> {
        let mut last = None;
        let what = format!("status {status} to {ask:?}");
        let found = poll::until(&what, SOON, async || {
            let reply = self.send(ask).await.ok()?;
            last = Some((reply.status, reply.text()));
            (reply.status == status).then_some(reply)
        });
        found.await.with_context(|| format!("the last answer: {last:?}"))
    }

    /// Asks so many times, and returns the pods that answered.
    ///
    /// # Errors
    /// When one is not answered by the engine that the picker chose.
    pub(crate) async fn pods(&self, ask: &Ask, times: usize) -> Result<Vec<String>> {
        let mut pods = Vec::new();
        for _ in 0..times {
            let reply = self.send(ask).await?;
            pods.push(self.pod(&reply).with_context(|| format!("{ask:?}"))?.to_owned());
            self.picked(&reply).await.with_context(|| format!("{ask:?}"))?;
        }
        Ok(pods)
    }

    /// Asks so many times; pods whose names begin so have to answer each.
    ///
    /// # Errors
    /// When another does.
    pub(crate) async fn all_by(&self, ask: &Ask, times: usize, pod: &str) -> Result<()> {
        let others: Vec<_> =
            self.pods(ask, times).await?.into_iter().filter(|served| !served.starts_with(pod)).collect();
        ensure!(others.is_empty(), "{ask:?} was answered by {others:?} and not by {pod}");
        Ok(())
    }

    /// # Errors
    /// When there is no answer in time.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Reply> {
        let prompt = ask.prompt.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let client = &self.stage.client;
        let call = match ask.completion {
            true => client.complete(&ask.model, &prompt),
            false => client.chat(&ask.model, &[("user", &prompt)]),
        };
        let call = ask.headers.iter().fold(call, |call, (name, value)| call.header(name, value));
        tokio::time::timeout(PATIENCE, call.send()).await.context("no answer")?
    }

    fn said(&self) -> String {
        format!(
            "{}\nthe picker:\n{}\nthe operator:\n{}",
            self.stage.host.said(),
            tail(&self.picker.log(), 15),
            tail(&self.operator.log(), 15)
        )
    }
}

/// A request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    model: String,
    headers: Vec<(&'static str, &'static str)>,
    /// `/v1/completions` instead of `/v1/chat/completions`.
    completion: bool,
    prompt: Option<String>,
}

impl Ask {
    pub(crate) fn model(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn completion(mut self) -> Self {
        self.completion = true;
        self
    }

    pub(crate) fn prompt(mut self, prompt: &str) -> Self {
        self.prompt = Some(prompt.to_owned());
        self
    }
}
