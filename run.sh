run () 
{ 
    for a in "review nginx registry.k8s.io/pause:3.10 x@y --format json" "review -f m.yaml --format json" "review -f m.yaml" "review -f m.yaml -f nothing.yaml --format json" "inspect /work/wt/cli/plugins/dist/pinned-images.wasm --format json" "inspect /work/wt/cli/plugins/dist/pinned-images.wasm" "inspect /work/wt/cli/plugins/dist/trusted-registries.wasm --format json" "inspect /work/wt/cli/plugins/dist/trusted-registries.wasm" "inspect nothing.wasm" "review" "build m.yaml -o /nothing/x" "test /tmp/cliold" "bench m.yaml";
    do
        echo "## $a";
        $1 $a;
        echo "-> $?";
    done
}
