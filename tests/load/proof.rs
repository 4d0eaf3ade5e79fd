//! The short runs, for a continuous build.

#[cfg(test)]
mod runs {
    use clap::Parser;
    use load::{faults, swaps, volumes};

    /// One at a time: they are about what a machine does under load.
    static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[derive(Parser)]
    struct Swaps {
        #[command(flatten)]
        options: swaps::Options,
    }

    #[derive(Parser)]
    struct Volumes {
        #[command(flatten)]
        options: volumes::Options,
    }

    #[derive(Parser)]
    struct Faults {
        #[command(flatten)]
        options: faults::Options,
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn five_hundred_swaps_under_load() {
        let _machine = MACHINE.lock().await;
        let Swaps { options } = Swaps::parse_from(["swaps", "--swaps", "500"]);
        swaps::run(options).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_volumes_in_a_row() {
        let _machine = MACHINE.lock().await;
        let Volumes { options } = Volumes::parse_from(["volumes"]);
        volumes::run(options).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_fault_is_got_through() {
        let _machine = MACHINE.lock().await;
        let Faults { options } = Faults::parse_from(["faults"]);
        faults::run(options).await.unwrap();
    }
}
