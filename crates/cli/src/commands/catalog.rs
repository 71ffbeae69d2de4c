//! `huitong catalog`: publishing, and finding what others have published.

use std::path::Path;

use huitong_grpc::proto::admin as api;
use serde_json::json;

use crate::admin::{Admin, Client};
use crate::cli::{Catalog, Global, Lang};
use crate::commands::{list, operation_id, read_input};
use crate::exit::Failure;
use crate::output::{Output, bytes, table};
use crate::{operations, views};

/// The most a policy document may have.
pub(crate) const MAX_POLICY_BYTES: u64 = 8 << 10;

pub(crate) async fn run(command: Catalog, global: &Global, output: Output) -> Result<(), Failure> {
    let admin = Admin::open(global, output).await?;
    match command {
        Catalog::Publish { file, policy, name, intro, price, window, id } => {
            let request = api::PublishRequest {
                path: operations::absolute(&file)?,
                name,
                introduction: intro,
                policy: read_policy(&policy)?.into(),
                price,
                window_bytes: window,
                id: operations::id_bytes(operation_id(id, output)).into(),
                ..Default::default()
            };
            publish(&admin, request, output).await?;
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

/// A policy document from a file or stdin. The node checks it; its size is checked here, to fail before the network.
pub(crate) fn read_policy(path: &Path) -> Result<Vec<u8>, Failure> {
    read_input(path, MAX_POLICY_BYTES)
}

async fn publish(admin: &Admin, request: api::PublishRequest, output: Output) -> Result<(), Failure> {
    let bar = output.progress("hashing");
    bar.set_length(std::fs::metadata(&request.path).map_or(0, |file| file.len()));
    let publication = operations::publish(admin, request, |hashed| bar.set_position(hashed)).await;
    bar.finish_and_clear();
    let publication = publication?;
    output.result(&views::publication(&publication), || {
        format!(
            "listed {}\n  product  {}\n  size     {}\n  blake3   {}\nkeep the file {} where it is, unchanged",
            publication.name,
            publication.product,
            bytes(publication.size),
            publication.blake3,
            publication.path
        )
    });
    Ok(())
}

fn describe(product: &api::GetProductResponse, lang: Lang) -> String {
    let hit = product.hit.clone().unwrap_or_default();
    let (price, policy) = match lang {
        Lang::En => (or(&product.price, "free of charge"), &product.english),
        Lang::Zh => (or(&product.price, "免费"), &product.chinese),
    };
    let mut text = format!(
        "{}\n{}\n  product   {}\n  provider  {} {}\n  address   {}\n  file      {}, {}\n  blake3    {}\n  price     {price}\n",
        hit.name,
        hit.introduction,
        hit.product,
        hit.provider_name,
        hit.provider,
        product.address,
        product.file_name,
        bytes(hit.size),
        product.blake3
    );
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
