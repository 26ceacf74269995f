//! `serve`: volumes, images and files over NBD.

use std::path::{Path, PathBuf};

use gabion::{
    Export, FlushTo, Host, InStore, Pinning, ReplicateOptions, Server, ServerHandle, WarmUp,
    core::{
        Error, ErrorKind, ImageName, Result,
        ops::{ImageRef, resolve},
    },
    format_bytes,
};
use serde_json::json;

use super::{import::name_of, stop_signal};
use crate::{
    args::{Flush, Prefetch, Serve},
    output::Output,
};

pub(super) async fn serve(host: &Host, output: &Output, args: Serve) -> Result<()> {
    if args.size.is_some() && args.what.len() > 1 {
        return Err(Error::invalid("--size goes with one volume"));
    }
    let mut server = Server::builder();
    if args.replicate || args.flush == Flush::Remote {
        let flush = match args.flush {
            Flush::Local => FlushTo::Local,
            Flush::Remote => FlushTo::Remote,
        };
        let every = args.every.unwrap_or(ReplicateOptions::default().every);
        server = server.replicate(ReplicateOptions { every, flush, take_over: args.take_over });
    } else if args.every.is_some() || args.take_over {
        return Err(Error::invalid("--every and --take-over go with --replicate or --flush remote"));
    }
    let prefetch = args.prefetch == Some(Prefetch::All);
    server = server.warm_up(WarmUp { trace: !args.no_trace, prefetch });
    let (mut first, mut notes) = (None, Vec::new());
    for what in &args.what {
        let export = open(host, &args, what, &mut notes).await?;
        first.get_or_insert_with(|| export.name.clone());
        server = server.export(export);
    }
    let runtime = &host.places().runtime;
    make_private(runtime)?;
    let name = first.unwrap_or_default().replace('/', "%2F");
    let socket = match args.socket {
        Some(path) => std::path::absolute(&path).map_err(|e| Error::io(path.display().to_string(), e))?,
        None => runtime.join(format!("{name}.sock")),
    };
    let control = runtime.join(format!("control-{}.sock", std::process::id()));
    // From here on: a signal that comes while the server starts must stop it, too.
    let stopped = stop_signal();
    tokio::pin!(stopped);
    let handle = server.control(control).serve_unix(&socket).await?;
    announce(output, &handle, &socket)?;
    notes.iter().for_each(|note| output.warn(note));
    stopped.await;
    handle.shutdown().await
}

fn announce(output: &Output, handle: &ServerHandle, socket: &Path) -> Result<()> {
    let uris = handle.uris();
    let exports: Vec<_> = uris.iter().map(|(name, uri)| json!({ "name": name, "uri": uri })).collect();
    let value = json!({ "listening": socket.display().to_string(), "uri": handle.uri(), "exports": exports, "pid": std::process::id() });
    let mut text = format!("listening on {}\n", socket.display());
    for (_, uri) in &uris {
        text.push_str(&format!("{uri}\n"));
    }
    let uri = handle.uri();
    text.push_str(&format!(
        "\nQEMU       qemu-system-x86_64 -drive 'file={uri},if=virtio,format=raw,cache=none,discard=unmap' …\n\
         nbdcopy    nbdcopy '{uri}' disk.raw\n\
         kernel     nbd-client -unix {} /dev/nbd0 -N {}\n",
        socket.display(),
        uris.first().map_or("", |(name, _)| name),
    ));
    output.result(&value, &text)
}

/// `notes` gets what people should know once it is served.
async fn open(host: &Host, args: &Serve, what: &str, notes: &mut Vec<String>) -> Result<Export> {
    let looks_like_file = args.file || what.contains(['/', '.']);
    let image = if args.file { None } else { what.parse::<InStore<ImageRef>>().ok() };
    let name = image
        .as_ref()
        .filter(|image| image.to_string() == image.name.name.as_str())
        .map(|image| image.name.name.clone());
    let volume = match &name {
        Some(name) => host.volumes().contains(name)?,
        None => false,
    };
    let is_file = looks_like_file && Path::new(what).exists();
    if is_file {
        let is_image = match &image {
            Some(image) => is_image(host, image).await?,
            None => false,
        };
        if volume || is_image {
            let what_else = if volume { "volume" } else { "image" };
            return Err(Error::invalid(format!(
                "'{what}' is a file and {} {what_else}: write ./{what} or --file for the file, or rename it",
                if volume { "a" } else { "an" }
            )));
        }
        return open_file(host, args, Path::new(what)).await;
    }
    if looks_like_file && !volume && args.size.is_none() {
        let is_image = match &image {
            Some(image) => is_image(host, image).await?,
            None => false,
        };
        if !is_image {
            return Err(Error::not_found(format!("there is no file, volume or image '{what}'")));
        }
    }
    match name {
        Some(name) if volume || args.size.is_some() => open_volume(host, args, &name).await,
        _ => open_image(host, args, what, notes).await,
    }
}

async fn is_image(host: &Host, image: &InStore<ImageRef>) -> Result<bool> {
    match resolve(&host.store_of(image.store.as_deref()).await?.store, &image.name).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn open_volume(host: &Host, args: &Serve, name: &ImageName) -> Result<Export> {
    if args.ephemeral {
        return Err(Error::invalid(format!("'{name}' is a volume: --ephemeral goes with an image")));
    }
    if let Some(size) = args.size
        && !host.volumes().contains(name)?
    {
        host.create_volume(name, None, Some(size), Pinning::Pinned).await?;
    }
    let volume = host.open_volume(name, None).await?;
    if let Some(size) = args.size.filter(|size| *size != volume.volume.size()) {
        volume.volume.grow(size).await?;
    }
    Ok(Export::volume(volume))
}

async fn open_image(host: &Host, args: &Serve, what: &str, notes: &mut Vec<String>) -> Result<Export> {
    let image: InStore<ImageRef> = what.parse()?;
    let found =
        if args.ephemeral { host.open_image_ephemeral(&image).await } else { host.open_image(&image).await };
    let found = found.map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            e.context(format!("'{what}' is neither a volume nor an image (a new volume needs --size)"))
        }
        _ => e,
    })?;
    let how = if args.ephemeral { "what is written is discarded at the end" } else { "read-only" };
    notes.push(format!(
        "serving checkpoint {} of image '{image}', {how}; later checkpoints don't show; what keeps it in {} is the \
         image's history",
        found.checkpoint.short(),
        found.home.url.place(),
    ));
    let name = image.store.as_ref().map_or(what, |store| &what[store.len() + 1..]);
    Ok(Export::image(name, found, format!("image, {how}")))
}

async fn open_file(host: &Host, args: &Serve, file: &Path) -> Result<Export> {
    if args.size.is_some() || args.ephemeral {
        return Err(Error::invalid(format!(
            "{}: --size and --ephemeral don't go with a file",
            file.display()
        )));
    }
    let name = name_of(file)?;
    if !host.volumes().contains(&name)? {
        host.create_lazy_volume(&name, file).await?;
    } else {
        let info = host.volumes().look_up(&name)?.info;
        let same = info.lazy_base.as_ref().is_some_and(|lazy| same_file(&lazy.path, file));
        if !same {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "volume '{name}' ({}) exists already: serve it as '{name}', remove it, or rename {}",
                    format_bytes(info.size),
                    file.display()
                ),
            ));
        }
    }
    Ok(Export::volume(host.open_volume(&name, None).await?))
}

fn same_file(a: &Path, b: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    canonical(a).is_some_and(|a| Some(a) == canonical(b))
}

fn make_private(folder: &PathBuf) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| Error::io(format!("folder {} for sockets can't be made", folder.display()), e))
}
