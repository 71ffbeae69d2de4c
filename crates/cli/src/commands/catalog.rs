//! `huitong catalog`: publishing, and finding what others have published.

use std::path::Path;

use huitong_grpc::proto::admin as api;
use huitong_policy::{Policy, PolicyError};
use serde_json::json;

use crate::admin::{Admin, Client};
use crate::cli::{Catalog, FileHash, Global, Lang};
use crate::commands::{list, operation_id, read_input};
use crate::exit::{Exit, Failure};
use crate::output::{Output, bytes, content, table};
use crate::{operations, views};

/// The most a policy document may have.
pub(crate) const MAX_POLICY_BYTES: u64 = 8 << 10;

pub(crate) async fn run(command: Catalog, global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    match command {
        Catalog::Publish { file, policy, renews, series, push, digest, name, intro, price, window, id } => {
            let request = api::PublishRequest {
                path: operations::absolute(&file)?,
                name,
                introduction: intro,
                policy: policy.as_deref().map(read_policy).transpose()?.unwrap_or_default().into(),
                renews: renews.unwrap_or_default(),
                series,
                push,
                sha256: digest.contains(&FileHash::Sha256),
                sm3: digest.contains(&FileHash::Sm3),
                price,
                window_bytes: window.unwrap_or_default(),
                id: operations::id_bytes(operation_id(id, output)).into(),
                ..Default::default()
            };
            publish(&admin, request, output).await?;
            if push {
                output.note("the node tells the consumers of all contracts that cover later versions");
            }
        }
        Catalog::List => {
            let publications = admin
                .call(async |mut client: Client| {
                    client.list_publications(api::ListPublicationsRequest {}).await
                })
                .await?
                .publications;
            output.result(&list("publications", publications.iter().map(views::publication)), || {
                let rows: Vec<_> = publications.iter().map(publication_row).collect();
                table(&["product", "name", "size", "state", "id"], &rows, "nothing is published here")
            });
        }
        Catalog::Search { words, limit, offset } => {
            let page = search(&admin, &words.join(" "), offset, limit).await?;
            let answer =
                json!({"total": page.total, "hits": page.hits.iter().map(views::hit).collect::<Vec<_>>()});
            output.result(&answer, || {
                let rows: Vec<_> = page.hits.iter().map(hit_row).collect();
                table(&["product", "name", "size", "provider"], &rows, "nothing matches")
            });
        }
        Catalog::Show { product, lang } => {
            let product = product_of(&admin, &product).await?;
            output.result(&views::product(&product), || describe(&product, lang));
        }
    }
    Ok(())
}

/// Searches the function node's catalog.
pub(crate) async fn search(
    admin: &Admin,
    keywords: &str,
    offset: u64,
    limit: u64,
) -> Result<api::SearchCatalogResponse, Failure> {
    let request = api::SearchCatalogRequest { keywords: keywords.to_owned(), offset, limit };
    admin.call(async |mut client: Client| client.search_catalog(request.clone()).await).await
}

/// Resolves a product and reads its offer.
pub(crate) async fn product_of(admin: &Admin, product: &str) -> Result<api::GetProductResponse, Failure> {
    let request = api::GetProductRequest { product: product.to_owned() };
    admin.call(async |mut client: Client| client.get_product(request.clone()).await).await
}

/// A policy document from a file or stdin. The node checks it again; here every mistake is told before anything starts.
pub(crate) fn read_policy(path: &Path) -> Result<Vec<u8>, Failure> {
    let document = read_input(path, MAX_POLICY_BYTES)?;
    match Policy::parse(&document) {
        Ok(_) => Ok(document),
        Err(error) => Err(policy_failure(path, &error)),
    }
}

fn policy_failure(path: &Path, error: &PolicyError) -> Failure {
    let (exit, code, path) = (Exit::Unreadable, "policy.invalid", path.display());
    match error {
        PolicyError::Invalid { problems, omitted } if problems.len() > 1 => {
            let mut message = format!("the policy {path} cannot be enforced:");
            for problem in problems {
                message.push_str(&format!("\n  - {problem}"));
            }
            if *omitted > 0 {
                message.push_str(&format!("\n  - and {omitted} more"));
            }
            Failure::new(exit, code, message, "correct each of them")
        }
        PolicyError::Invalid { problems, .. } => {
            let problem = problems.first().map(ToString::to_string).unwrap_or_default();
            let sentence = format!("the policy {path} cannot be enforced: {problem}");
            Failure::from_sentence(exit, code, &sentence)
        }
        PolicyError::TooLarge { .. } | PolicyError::NotJson { .. } => {
            Failure::from_sentence(exit, code, &format!("{path}: {error}"))
        }
    }
    .or_next("`huitong catalog publish --help` shows a policy to start from")
}

/// What to do about a publication that the node does not take: its fields are options here.
fn publish_advice(message: &str) -> &'static str {
    match message.split(':').next().unwrap_or_default() {
        "resource.name" | "product.name" => "set another name with --name",
        "resource.abstract" | "product.abstract" => "set another introduction with --intro",
        "listing.price" => "set another price with --price",
        "product.file_name" => "rename the file or directory",
        "file" => "name a regular file, or a directory of them, that the node can read",
        _ => "correct what the message names and publish again",
    }
}

async fn publish(admin: &Admin, request: api::PublishRequest, output: Output) -> Result<(), Failure> {
    let bar = output.progress("hashing");
    bar.set_length(bytes_below(Path::new(&request.path)));
    let publication = operations::publish(admin, request, |hashed| bar.set_position(hashed)).await;
    bar.finish_and_clear();
    let publication = publication.map_err(|failure| {
        let advice = publish_advice(&failure.message);
        failure.or_next(advice)
    })?;
    output.result(&views::publication(&publication), || {
        format!(
            "listed {}\n  product  {}\n  size     {}\n  blake3   {}\n{}keep {} where it is, unchanged",
            publication.name,
            publication.product,
            content(publication.size, publication.files),
            publication.blake3,
            hashes(&publication.sha256, &publication.sm3),
            publication.path
        )
    });
    Ok(())
}

/// A line for each hash that there is.
fn hashes(sha256: &str, sm3: &str) -> String {
    let lines = [("sha256 ", sha256), ("sm3    ", sm3)].into_iter().filter(|(_, hash)| !hash.is_empty());
    lines.map(|(name, hash)| format!("  {name}  {hash}\n")).collect()
}

/// Bytes in a file or in the files below a directory, for a progress bar; 0 for what cannot be read.
fn bytes_below(path: &Path) -> u64 {
    let Ok(found) = std::fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| bytes_below(&entry.path())).fold(0, u64::saturating_add)
}

fn describe(product: &api::GetProductResponse, lang: Lang) -> String {
    let hit = product.hit.clone().unwrap_or_default();
    let (price, policy) = match lang {
        Lang::En => (or(&product.price, "free of charge"), &product.english),
        Lang::Zh => (or(&product.price, "免费"), &product.chinese),
    };
    let [product_label, provider, address, file, version, blake3, price_label] = match lang {
        Lang::En => ["product ", "provider", "address ", "file    ", "version ", "blake3  ", "price   "],
        Lang::Zh => ["产品标识", "提供方  ", "节点地址", "文件    ", "版本    ", "BLAKE3  ", "价格    "],
    };
    let coverage = match (product.series, lang) {
        (false, _) => "",
        (true, Lang::En) => ", and later ones under the same contract",
        (true, Lang::Zh) => "，同一合约包括之后的版本",
    };
    let mut text = format!("{}\n", hit.name);
    if !hit.introduction.is_empty() {
        text.push_str(&format!("{}\n", hit.introduction));
    }
    text.push_str(&format!(
        "  {product_label}  {}\n  {provider}  {} {}\n  {address}  {}\n  {file}  {}, {}\n  {version}  {}{coverage}\n  \
         {blake3}  {}\n{}  {price_label}  {price}\n",
        hit.product,
        hit.provider_name,
        hit.provider,
        product.address,
        product.file_name,
        content(hit.size, product.files),
        product.version,
        product.blake3,
        hashes(&product.sha256, &product.sm3)
    ));
    for line in policy {
        text.push_str("  - ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn publication_row(publication: &api::Publication) -> Vec<String> {
    let state = match publication.reason.as_str() {
        "" => publication.state.clone(),
        reason => format!("{}: {reason}", publication.state),
    };
    vec![
        publication.product.clone(),
        publication.name.clone(),
        bytes(publication.size),
        state,
        operations::id_text(&publication.id),
    ]
}

fn hit_row(hit: &api::Hit) -> Vec<String> {
    vec![hit.product.clone(), hit.name.clone(), bytes(hit.size), hit.provider_name.clone()]
}
