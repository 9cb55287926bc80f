//! Batches as vLLM writes them.

use anyhow::Result;
use rmp::encode::{write_array_len, write_f64, write_map_len, write_nil, write_sint, write_str, write_uint};

use super::EventForm;

/// One change of the cache.
#[derive(Clone, Debug)]
pub(in crate::engine) enum Event {
    Stored {
        hashes: Vec<u64>,
        parent: Option<u64>,
        tokens: Vec<u32>,
        block_tokens: usize,
        lora: Option<String>,
        salt: Option<String>,
    },
    Removed(u64),
    Cleared,
}

/// `[time, events, rank]`.
pub(super) fn batch(form: EventForm, at: f64, events: &[Event], rank: u32) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write_array_len(&mut out, 3)?;
    write_f64(&mut out, at)?;
    length(&mut out, events.len())?;
    for event in events {
        match form {
            EventForm::Array => array(&mut out, event)?,
            EventForm::Map => map(&mut out, event)?,
        }
    }
    write_uint(&mut out, rank.into())?;
    Ok(out)
}

/// As vLLM 0.16: the salt is in the hash alone.
fn array(out: &mut Vec<u8>, event: &Event) -> Result<()> {
    match event {
        Event::Stored { hashes, parent, tokens, block_tokens, lora, salt: _ } => {
            write_array_len(out, 8)?;
            write_str(out, "BlockStored")?;
            blocks(out, hashes, *parent, tokens)?;
            write_uint(out, *block_tokens as u64)?;
            adapter(out, lora.as_ref())?;
            write_str(out, "GPU")?;
            text(out, lora.as_deref())?;
        }
        Event::Removed(hash) => {
            write_array_len(out, 3)?;
            write_str(out, "BlockRemoved")?;
            list(out, &[*hash])?;
            write_str(out, "GPU")?;
        }
        Event::Cleared => {
            write_array_len(out, 1)?;
            write_str(out, "AllBlocksCleared")?;
        }
    }
    Ok(())
}

/// As vLLM 0.28 and later.
fn map(out: &mut Vec<u8>, event: &Event) -> Result<()> {
    match event {
        Event::Stored { hashes, parent, tokens, block_tokens, lora, salt } => {
            write_map_len(out, 11)?;
            write_str(out, "type")?;
            write_str(out, "BlockStored")?;
            write_str(out, "block_hashes")?;
            list(out, hashes)?;
            write_str(out, "parent_block_hash")?;
            optional(out, *parent)?;
            write_str(out, "token_ids")?;
            ids(out, tokens)?;
            write_str(out, "block_size")?;
            write_uint(out, *block_tokens as u64)?;
            write_str(out, "lora_id")?;
            adapter(out, lora.as_ref())?;
            write_str(out, "medium")?;
            write_str(out, "GPU")?;
            write_str(out, "lora_name")?;
            text(out, lora.as_deref())?;
            write_str(out, "extra_keys")?;
            length(out, hashes.len())?;
            for place in 0..hashes.len() {
                let salt = salt.as_ref().filter(|_| place == 0 && parent.is_none());
                let keys: Vec<&String> = lora.iter().chain(salt).collect();
                if keys.is_empty() {
                    write_nil(out)?;
                } else {
                    length(out, keys.len())?;
                    keys.iter().try_for_each(|key| write_str(out, key))?;
                }
            }
            write_str(out, "group_idx")?;
            write_uint(out, 0)?;
            write_str(out, "kv_cache_spec_kind")?;
            write_str(out, "full_attention")?;
        }
        Event::Removed(hash) => {
            write_map_len(out, 4)?;
            write_str(out, "type")?;
            write_str(out, "BlockRemoved")?;
            write_str(out, "block_hashes")?;
            list(out, &[*hash])?;
            write_str(out, "medium")?;
            write_str(out, "GPU")?;
            write_str(out, "group_idx")?;
            write_uint(out, 0)?;
        }
        Event::Cleared => {
            write_map_len(out, 1)?;
            write_str(out, "type")?;
            write_str(out, "AllBlocksCleared")?;
        }
    }
    Ok(())
}

fn blocks(out: &mut Vec<u8>, hashes: &[u64], parent: Option<u64>, tokens: &[u32]) -> Result<()> {
    list(out, hashes)?;
    optional(out, parent)?;
    ids(out, tokens)
}

fn length(out: &mut Vec<u8>, length: usize) -> Result<()> {
    write_array_len(out, u32::try_from(length)?)?;
    Ok(())
}

fn ids(out: &mut Vec<u8>, tokens: &[u32]) -> Result<()> {
    length(out, tokens.len())?;
    tokens.iter().try_for_each(|token| write_uint(out, (*token).into()).map(drop))?;
    Ok(())
}

fn list(out: &mut Vec<u8>, hashes: &[u64]) -> Result<()> {
    length(out, hashes.len())?;
    hashes.iter().try_for_each(|hash| hash_of(out, *hash))
}

fn optional(out: &mut Vec<u8>, hash: Option<u64>) -> Result<()> {
    match hash {
        Some(hash) => hash_of(out, hash),
        None => Ok(write_nil(out)?),
    }
}

/// vLLM's numbers have no sign, SGLang's do: the odd ones are written as SGLang would.
fn hash_of(out: &mut Vec<u8>, hash: u64) -> Result<()> {
    if hash.is_multiple_of(2) {
        write_uint(out, hash)?
    } else {
        write_sint(out, hash.cast_signed())?
    };
    Ok(())
}

fn adapter(out: &mut Vec<u8>, lora: Option<&String>) -> Result<()> {
    match lora {
        Some(_) => write_uint(out, 1).map(drop)?,
        None => write_nil(out)?,
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, text: Option<&str>) -> Result<()> {
    match text {
        Some(text) => write_str(out, text)?,
        None => write_nil(out)?,
    }
    Ok(())
}
