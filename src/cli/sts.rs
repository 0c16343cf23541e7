//! `xosfs sts`: short-lived keys with the rights of a role.
//!
//! Difficulty: this is the one command that prints secrets, because that is what it is for. They go to standard output
//! and nowhere else; a terminal is warned.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::object::read_text;
use super::store::{Store, StoreArgs, Uri};
use super::{Failure, print};
use crate::config::{credentials::Credentials, value};
use crate::daemon::env;
use crate::error::{Error, Kind};
use crate::policy::{self, Scope, SessionPolicy};
use crate::s3::{AssumeRole, Session, Sts, StsSettings};

#[derive(Args, Clone, Debug)]
pub(super) struct StsArgs {
    #[command(subcommand)]
    command: StsCommand,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum StsCommand {
    /// Take a role: prints temporary keys.
    AssumeRole(Box<AssumeArgs>),
}

/// How the keys are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Lines for a shell: eval "$(xosfs sts assume-role …)".
    #[default]
    Env,
    Json,
    /// What a `credential_process` in ~/.aws/config prints.
    Process,
}

#[derive(Args, Clone, Debug)]
struct AssumeArgs {
    /// The role, as the console shows it: arn:aws:iam:::role/NAME.
    role: String,
    /// 2 to 64 of A-Z a-z 0-9 _ + = , . @ -; shows in the store's logs.
    #[arg(long, value_name = "NAME", default_value = "xosfs")]
    session_name: String,
    /// How long the keys work: 15m to 12h.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    duration: String,
    /// A policy that narrows the role's rights; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    policy: Option<String>,
    /// A ready-made policy: all, read-only, read-write, transfer, multipart.
    #[arg(long, value_name = "NAME", requires = "on")]
    preset: Option<String>,
    /// The bucket or part of a bucket that the preset is for.
    #[arg(long, value_name = "s3://BUCKET[/PREFIX]", requires = "preset")]
    on: Option<String>,
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Where the token service answers [default: the endpoint of the store].
    #[arg(long, value_name = "URL")]
    sts_endpoint: Option<String>,
    /// Region that the request is signed for [default: the provider's].
    #[arg(long, value_name = "NAME")]
    sts_region: Option<String>,
    #[arg(long, value_enum, default_value_t = Form::Env)]
    format: Form,
}

fn policy_of(args: &AssumeArgs) -> Result<Option<String>, Failure> {
    if let Some(file) = &args.policy {
        let text = read_text(file)?;
        let findings = policy::check(&text, &Scope::Session);
        if let Some(first) = findings.iter().find(|f| f.is_error()) {
            return Err(Failure::Usage(format!("--policy {file}: {first}")));
        }
        return Ok(Some(text));
    }
    let (Some(name), Some(on)) = (&args.preset, &args.on) else { return Ok(None) };
    let names: Vec<_> = SessionPolicy::ALL.iter().map(|p| p.name()).collect();
    let preset = SessionPolicy::from_name(name)
        .ok_or_else(|| Failure::Usage(format!("--preset {name}: write {}", names.join(", "))))?;
    let uri = if on.contains('/') { Uri::parse(on)? } else { Uri::bucket(on)? };
    Ok(Some(preset.json(&uri.bucket, &uri.prefix())))
}

/// In single quotes, as a shell reads it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn show(session: &Session, form: Form) -> Result<(), Failure> {
    let keys = &session.keys;
    let token = keys.token.as_deref().unwrap_or("");
    match form {
        Form::Env => {
            if std::io::stdout().is_terminal() {
                eprintln!("xosfs: these lines are secrets; eval \"$(…)\" sets them without showing them");
            }
            print::out(&format!(
                "export AWS_ACCESS_KEY_ID={}\nexport AWS_SECRET_ACCESS_KEY={}\nexport AWS_SESSION_TOKEN={}\n",
                quoted(&keys.access_key),
                quoted(&keys.secret_key),
                quoted(token)
            ))
        }
        Form::Json => print::json_whole(&json!({
            "Credentials": {
                "AccessKeyId": keys.access_key,
                "SecretAccessKey": keys.secret_key,
                "SessionToken": token,
                "Expiration": session.expiration,
            },
            "AssumedRoleUser": session.role,
        })),
        Form::Process => print::json_whole(&json!({
            "Version": 1,
            "AccessKeyId": keys.access_key,
            "SecretAccessKey": keys.secret_key,
            "SessionToken": token,
            "Expiration": session.expiration,
        })),
    }
}

fn assume(store_args: &StoreArgs, args: &AssumeArgs) -> Result<(), Failure> {
    let usage = |e: Error| Failure::Usage(e.to_string());
    let range = Duration::from_secs(1)..=Duration::from_secs(86400);
    let request = AssumeRole {
        policy: policy_of(args)?,
        duration: value::duration(&args.duration, range).map_err(|e| Failure::Usage(format!("--duration: {e}")))?,
        external_id: args.external_id.clone(),
        ..AssumeRole::new(&args.role, &args.session_name)
    };
    request.check().map_err(usage)?;
    // The request names no bucket.
    let store = Store::open(store_args, &Uri { bucket: "none".into(), key: String::new(), options: Vec::new() })?;
    let takes = store.provider.sts.as_ref();
    let region = store.s3.region();
    let endpoint = match (&args.sts_endpoint, takes.and_then(|s| s.endpoint)) {
        (Some(url), _) => value::endpoint(url).map_err(|e| Failure::Usage(format!("--sts-endpoint: {e}")))?,
        (None, Some(url)) => url.replace("REGION", &region),
        (None, None) => store.s3.endpoint().to_owned(),
    };
    let region = args.sts_region.clone().or_else(|| takes.and_then(|s| s.region).map(str::to_owned)).unwrap_or(region);
    if takes.is_some_and(|s| s.policy_required) && request.policy.is_none() {
        let title = store.provider.title;
        return Err(Failure::Usage(format!(
            "{title} wants a policy: add --policy FILE, or --preset NAME --on s3://BUCKET"
        )));
    }
    let mut settings = StsSettings::new(&endpoint, &region);
    if let Some(sts) = takes {
        settings.service = sts.service.into();
    }
    settings.connect_timeout = store.options.connect_timeout;
    settings.timeout = store.options.op_timeout;
    settings.retries = store.options.retries;
    if let Some(warning) = request.warning() {
        eprintln!("xosfs: warning: {warning}");
    }
    let credentials = Credentials::find(store.options.profile.as_deref(), &env)?;
    let session = super::store::block_on(async {
        let none = || Error::new(Kind::Denied, "assume role: there are no keys to take the role with");
        let keys = credentials.current().await?.ok_or_else(none)?;
        Ok(Sts::new(settings)?.assume_role(&keys, &request).await?)
    })?;
    show(&session, if store_args.json { Form::Json } else { args.format })
}

pub(super) fn run(args: &StsArgs) -> Result<(), Failure> {
    match &args.command {
        StsCommand::AssumeRole(assume_args) => assume(&args.store, assume_args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_is_printed() {
        assert_eq!(quoted("a/b+c="), "'a/b+c='");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
