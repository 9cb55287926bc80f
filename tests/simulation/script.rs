//! The script language: one command a line, words separated by spaces.
//!
//! ```text
//! > profile {JSON}                         another profile than the default
//! > endpoint NAME ADDRESS [LABEL=VALUE…]   adds or changes a pod; `remove NAME` takes it away
//! > server NAME [model=NAME] [pairs=KEY] LABEL=VALUE…
//!                                        adds a ModelServer; with `pairs` its pods with role=prefill
//!                                        (which the pool does not select) and role=decode pair within
//!                                        one value of the label KEY
//! > route NAME MODEL [adapter=NAME…] SERVER:WEIGHT…
//! > declare                                tells the brain all of the above
//! > wait SECONDS
//! > scrape NAME [running=N] [waiting=N] [kv=SHARE] [ttft=MS] [tpot=MS]
//! > scrape-fails NAME
//! > send N [hold] model=NAME prompt=SEED:BYTES[+SEED:BYTES…]
//! > finish                                 ends all that was sent with `hold`
//! > expect NAME MIN..MAX                   of the last `send` (both ends included)
//! > expect refused
//! ```
//!
//! `send` decides N times, one after the other. Each is learned at once, and ends at once unless it
//! is held; the prefill endpoint of a pair counts, learns and ends with it. Lines without `>` are output; lines with `#` are kept.

use crate::world::World;

/// Runs a script; the script again, with what came of each command under it.
pub(crate) fn run(script: &str) -> Result<String, String> {
    let mut world = World::default();
    let mut told = String::new();
    for (number, line) in script.lines().enumerate() {
        if let Some(command) = line.strip_prefix("> ") {
            let outcome = execute(&mut world, command).map_err(|error| format!("line {}: {error}", number + 1))?;
            told.push_str(&format!("{line}\n"));
            told.extend(outcome.lines().map(|line| format!("  {line}\n")));
        } else if line.starts_with('#') || line.is_empty() {
            told.push_str(&format!("{line}\n"));
        }
    }
    Ok(told)
}

fn execute(world: &mut World, command: &str) -> Result<String, String> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let mut outcome = String::new();
    match (verb, words.as_slice()) {
        ("profile", _) => world.profile(rest)?,
        ("endpoint", [name, address, labels @ ..]) => world.endpoint(name, address, &pairs(labels)?)?,
        ("remove", [name]) => world.remove(name),
        ("server", [name, options @ ..]) => world.server(name, &pairs(options)?),
        ("route", [name, model, options @ ..]) => world.route(name, model, options)?,
        ("declare", []) => world.declare(),
        ("wait", [seconds]) => world.wait(number(seconds)?),
        ("scrape", [name, options @ ..]) => world.scrape(name, &pairs(options)?)?,
        ("scrape-fails", [name]) => world.scrape_fails(name)?,
        ("send", [count, options @ ..]) => {
            let hold = options.contains(&"hold");
            let options: Vec<&str> = options.iter().copied().filter(|option| *option != "hold").collect();
            outcome = world.send(number(count)?, hold, &pairs(&options)?)?;
        }
        ("finish", []) => world.finish(),
        ("expect", ["refused"]) => world.expect_refused()?,
        ("expect", [name, range]) => {
            let (least, most) = range.split_once("..").ok_or("a range is written MIN..MAX")?;
            world.expect(name, number(least)?, number(most)?)?;
        }
        _ => return Err(format!("no such command: {command}")),
    }
    Ok(outcome)
}

fn pairs<'a>(words: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>, String> {
    words.iter().map(|word| word.split_once('=').ok_or_else(|| format!("`{word}` is not KEY=VALUE"))).collect()
}

fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("`{word}` is not a number"))
}
