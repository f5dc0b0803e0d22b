package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientfeatures "k8s.io/client-go/features"
	shared "k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const before = 600

// Informers of every sort: they begin with a stream of what there is (WatchList), or with pages of it where that is
// switched off by KUBE_FEATURE_WatchListClient.
func informers(ctx context.Context, config *rest.Config) {
	const ns = "go-informers"
	namespace(ctx, config, ns)
	writer := kubernetes.NewForConfigOrDie(config)
	for number := range before {
		must(writer.CoreV1().ConfigMaps(ns).Create(ctx, configMap(fmt.Sprintf("m-%03d", number), map[string]string{"k": "1"}), metav1.CreateOptions{}))
	}
	eventually(ctx, "the authority is published", func() bool {
		_, err := writer.CoreV1().ConfigMaps(ns).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil
	})
	plain, encoded := rest.CopyConfig(config), inProtobuf(config)
	said := []*traffic{watchOver(plain), watchOver(encoded)}
	all := shared.NewSharedInformerFactoryWithOptions(kubernetes.NewForConfigOrDie(encoded), 0, shared.WithNamespace(ns))
	followers := []follower{
		follow(all.Core().V1().ConfigMaps().Informer()),
		follow(dynamicMaps(plain, ns).Informer()),
		follow(metadataMaps(encoded, ns).Informer()),
	}
	for _, one := range followers {
		go one.informer.RunWithContext(ctx)
	}
	for _, one := range followers {
		assert(cache.WaitForCacheSync(ctx.Done(), one.handler.HasSynced), "not in time")
		assert(one.added.Load() == before+1, "%d came", one.added.Load())
	}
	began(said)
	change(ctx, writer, ns)
	for _, one := range followers {
		eventually(ctx, "the changes came", func() bool {
			return one.added.Load() == before+2 && one.changed.Load() == 1 && one.deleted.Load() == 1
		})
		keys := must(one.informer.GetIndexer().ByIndex(cache.NamespaceIndex, ns))
		assert(len(keys) == before+1, "%d are kept", len(keys))
	}
	lister := all.Core().V1().ConfigMaps().Lister().ConfigMaps(ns)
	assert(must(lister.Get("m-001")).Data["k"] == "2", "the change is not there")
	assert(len(must(lister.List(labels.Everything()))) == before+1, "not everything is listed")
}

type follower struct {
	informer                cache.SharedIndexInformer
	handler                 cache.ResourceEventHandlerRegistration
	added, changed, deleted *atomic.Int64
}

func follow(informer cache.SharedIndexInformer) follower {
	one := follower{informer: informer, added: new(atomic.Int64), changed: new(atomic.Int64), deleted: new(atomic.Int64)}
	one.handler = must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { one.added.Add(1) },
		UpdateFunc: func(old, new any) {
			if must(meta.Accessor(old)).GetResourceVersion() != must(meta.Accessor(new)).GetResourceVersion() {
				one.changed.Add(1)
			}
		},
		DeleteFunc: func(any) { one.deleted.Add(1) },
	}))
	return one
}

var mapsKind = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func dynamicMaps(config *rest.Config, ns string) shared.GenericInformer {
	client := dynamic.NewForConfigOrDie(config)
	return dynamicinformer.NewFilteredDynamicInformer(client, mapsKind, ns, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil)
}

func metadataMaps(config *rest.Config, ns string) shared.GenericInformer {
	client := metadata.NewForConfigOrDie(config)
	return metadatainformer.NewFilteredMetadataInformer(client, mapsKind, ns, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil)
}

// began expects that all informers began as they should.
func began(said []*traffic) {
	streams, lists := 0, 0
	for _, one := range said {
		streams += one.count(func(one exchange) bool { return strings.Contains(one.url, "sendInitialEvents=true") })
		lists += one.count(func(one exchange) bool {
			return one.method == http.MethodGet && !strings.Contains(one.url, "watch=true")
		})
	}
	if clientfeatures.FeatureGates().Enabled(clientfeatures.WatchListClient) {
		assert(streams == 3, "%d began with a stream", streams)
	} else {
		assert(streams == 0 && lists >= 3, "%d streams, %d lists", streams, lists)
	}
}

func change(ctx context.Context, client kubernetes.Interface, ns string) {
	maps := client.CoreV1().ConfigMaps(ns)
	must(maps.Create(ctx, configMap("new", nil), metav1.CreateOptions{}))
	must[*corev1.ConfigMap](maps.Patch(ctx, "m-001", types.MergePatchType, []byte(`{"data": {"k": "2"}}`), metav1.PatchOptions{}))
	check(maps.Delete(ctx, "m-002", metav1.DeleteOptions{}))
}
