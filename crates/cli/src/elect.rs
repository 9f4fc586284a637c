//! `synod elect`: an office that one at a time holds.

use serde_json::json;
use synod_client::{Holder, Revision};

use crate::arguments::{Campaign, Elect, Observe, Resign, ShowElected};
use crate::failure::Failure;
use crate::hold::{Hold, run as run_while_held, unless_lost};
use crate::keys::{bytes_of, shown, value_of};
use crate::lock::{HolderJson, leave, options, show, taken};
use crate::output::{print, print_json, print_on, tell};
use crate::talk::with_client;

pub(crate) fn run(arguments: &Elect) -> Result<(), Failure> {
    match arguments {
        Elect::Campaign(arguments) => campaign(arguments),
        Elect::Show(arguments) => show_elected(arguments),
        Elect::Observe(arguments) => observe(arguments),
        Elect::Resign(arguments) => resign(arguments),
    }
}

fn campaign(arguments: &Campaign) -> Result<(), Failure> {
    let name = bytes_of(&arguments.name);
    let value = value_of(arguments.value.as_ref(), arguments.file.as_deref())?;
    let (options, command) = (options(arguments.claim), arguments.command.clone());
    let is_json = arguments.reach.json;
    let ended = with_client(&arguments.reach, |client| async move {
        let what = format!("the office {}", shown(&name));
        let won = client.campaign(&name, &value, &options).await;
        let office = match unless_lost(won, &what)? {
            Ok(Some(office)) => office,
            Ok(None) => return Ok(Err(taken(&what, client.leader_of(&name).await.ok().flatten()))),
            Err(lost) => return Ok(Err(lost)),
        };
        if command.is_empty() {
            let token = office.token();
            tell(&match is_json {
                true => format!("{{\"lease\":{},\"token\":{token}}}", office.lease()),
                false => format!("elected with the token {token}, until Ctrl-C"),
            });
        }
        Ok(run_while_held(Hold::Office(office), &command).await)
    })??;
    leave(ended)
}

fn show_elected(arguments: &ShowElected) -> Result<(), Failure> {
    let name = bytes_of(&arguments.name);
    let holder =
        with_client(&arguments.reach, |client| async move { client.leader_of(&name).await })?;
    show(holder.as_ref(), arguments.reach.json)
}

fn observe(arguments: &Observe) -> Result<(), Failure> {
    let name = bytes_of(&arguments.name);
    let (is_json, mut left) = (arguments.reach.json, arguments.count);
    with_client(&arguments.reach, |client| async move {
        let mut observer = client.observe(&name).await?;
        loop {
            let holder = observer.next().await?;
            match print_on(&line(holder.as_ref(), is_json)) {
                Ok(true) => {}
                end => return Ok(end.map(|_| ())),
            }
            left = left.map(|left| left - 1);
            if left == Some(0) {
                return Ok(Ok(()));
            }
        }
    })?
}

fn line(holder: Option<&Holder>, is_json: bool) -> String {
    if is_json {
        return serde_json::to_string(&HolderJson::new(holder)).expect("plain fields");
    }
    let Some(holder) = holder else { return format!("{:>8}  nobody", "-") };
    let value = holder.value.as_deref().unwrap_or_default();
    format!("{:>8}  {}", holder.token.0, shown(value))
}

fn resign(arguments: &Resign) -> Result<(), Failure> {
    let (name, token) = (bytes_of(&arguments.name), Revision(arguments.token));
    let done =
        with_client(&arguments.reach, |client| async move { client.depose(&name, token).await })?;
    if !done {
        return Err(Failure::refused(format!("nobody is elected with the token {token}")));
    }
    if arguments.reach.json {
        return print_json(&json!({"resigned": true, "token": token.0}));
    }
    print("the office is free")
}
