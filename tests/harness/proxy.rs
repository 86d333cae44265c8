//! A link between two processes that can be cut: broken, so that both ends hear of it, or silent, so that neither
//! does. What was sent into a silent link arrives late, when it is whole again.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Whole,
    /// Connections are closed, and new ones at once.
    Broken,
    /// Connections stay open, and nothing comes through.
    Silent,
}

/// Listens on a free port of 127.0.0.1 and passes on what comes.
pub struct Proxy {
    pub address: SocketAddr,
    link: watch::Sender<Link>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, watched) = watch::channel(Link::Whole);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                if *watched.borrow() != Link::Broken {
                    connections.spawn(connect(stream, target.clone(), watched.clone()));
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, link, task }
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(stream: TcpStream, target: String, mut link: watch::Receiver<Link>) {
    let mut broken = link.clone();
    let both = async move {
        let _ = link.wait_for(|link| *link != Link::Silent).await;
        let Ok(there) = TcpStream::connect(target).await else { return };
        let _ = (stream.set_nodelay(true), there.set_nodelay(true));
        let ((from, to), (back_from, back_to)) = (stream.into_split(), there.into_split());
        tokio::join!(pass(from, back_to, link.clone()), pass(back_from, to, link));
    };
    tokio::select! {
        () = both => {}
        _ = broken.wait_for(|link| *link == Link::Broken) => {}
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut link: watch::Receiver<Link>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let _ = link.wait_for(|link| *link == Link::Whole).await;
        if to.write_all(&bytes[..length]).await.is_err() {
            break;
        }
    }
    let _ = link.wait_for(|link| *link == Link::Whole).await;
    let _ = to.shutdown().await;
}
