//! The filters of pools in the listeners whose routes lead to them.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::bytes::Bytes;

use crate::Malformed;
use crate::fields::Fields;
use crate::filters;
use crate::pool::Pool;

/// `Listener.filter_chains`, `.default_filter_chain`.
const CHAINS: [u32; 2] = [3, 25];
/// `FilterChain.filters`.
const FILTERS: u32 = 3;
/// `Filter.typed_config`.
const CONFIG: u32 = 4;
/// `Any.type_url`, `.value`.
const TYPE_URL: u32 = 1;
const VALUE: u32 = 2;
const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// `HttpConnectionManager.rds`, and its `route_config_name`; `.route_config`, and its `name`.
const RDS: [u32; 2] = [3, 2];
const INLINE: [u32; 2] = [4, 1];
/// `HttpConnectionManager.http_filters`, and a filter's `typed_config`.
const HTTP_FILTERS: [u32; 2] = [5, 4];
/// `HttpConnectionManager.early_header_mutation_extensions`.
const EARLY: u32 = 52;
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// Adds what `pools`, by the name of the route configuration, need to a listener. `None` is one that needs nothing.
pub(crate) fn extend(listener: Bytes, pools: &BTreeMap<String, Vec<Pool>>) -> Result<Option<Bytes>, Malformed> {
    let mut listener = Fields::parse(listener)?;
    let mut changed = false;
    for number in CHAINS {
        changed |= nested(&mut listener, number, |chain| {
            nested(chain, FILTERS, |filter| {
                nested(filter, CONFIG, |any| match any.text(TYPE_URL) {
                    MANAGER => nested(any, VALUE, |manager| manage(manager, pools)),
                    _ => Ok(false),
                })
            })
        })?;
    }
    Ok(changed.then(|| listener.encode()))
}

fn manage(manager: &mut Fields, pools: &BTreeMap<String, Vec<Pool>>) -> Result<bool, Malformed> {
    let mut wanted = None;
    for [source, name] in [RDS, INLINE] {
        if let Some(source) = manager.last(source) {
            wanted = wanted.or(pools.get(Fields::parse(source.clone())?.text(name)));
        }
    }
    let Some(wanted) = wanted else { return Ok(false) };
    let filters = wanted.iter().filter_map(filters::of_pool).map(|filter| filter.encode_to_vec().into()).collect();
    // After all others: who is refused earlier asks no picker.
    let [number, config] = HTTP_FILTERS;
    let is_router = |filter: &Bytes| {
        let any = Fields::parse(filter.clone()).ok().and_then(|filter| filter.last(config).cloned());
        any.and_then(|any| Fields::parse(any).ok()).is_some_and(|any| any.text(TYPE_URL) == ROUTER)
    };
    manager.insert_before(number, is_router, filters);
    manager.push(EARLY, filters::early_removal().encode_to_vec().into());
    Ok(true)
}

/// Changes the messages of this number within a message.
pub(crate) fn nested(
    message: &mut Fields,
    number: u32,
    mut change: impl FnMut(&mut Fields) -> Result<bool, Malformed>,
) -> Result<bool, Malformed> {
    message.change(number, |inner| {
        let mut inner = Fields::parse(inner.clone())?;
        Ok(change(&mut inner)?.then(|| inner.encode()))
    })
}
