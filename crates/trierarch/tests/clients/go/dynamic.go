package main

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

func object(name string, data map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": data,
	}}
}

// Objects without types, and metadata alone.
func dynamicObjects(ctx context.Context, config *rest.Config) {
	const ns = "go-dynamic"
	namespace(ctx, config, ns)
	maps := dynamic.NewForConfigOrDie(config).Resource(mapsKind).Namespace(ns)
	first := must(maps.Create(ctx, object("a", map[string]any{"k": "1"}), metav1.CreateOptions{}))
	value, _, _ := unstructured.NestedString(first.Object, "data", "k")
	assert(value == "1", "%v", first)
	apply := metav1.ApplyOptions{FieldManager: "one"}
	must(maps.Apply(ctx, "b", object("b", map[string]any{"k": "1"}), apply))
	apply.FieldManager = "two"
	refused[*unstructured.Unstructured](metav1.StatusReasonConflict)(maps.Apply(ctx, "b", object("b", map[string]any{"k": "2"}), apply))
	apply.Force = true
	must(maps.Apply(ctx, "b", object("b", map[string]any{"k": "2"}), apply))
	strict := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	wrong := object("c", nil)
	wrong.Object["nope"] = "x"
	refused[*unstructured.Unstructured](metav1.StatusReasonBadRequest)(maps.Create(ctx, wrong, strict))
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	must(maps.Create(ctx, object("dry", nil), dry))
	refused[*unstructured.Unstructured](metav1.StatusReasonNotFound)(maps.Get(ctx, "dry", metav1.GetOptions{}))
	retried(ctx, maps)
	metadataAlone(ctx, metadata.NewForConfigOrDie(config).Resource(mapsKind).Namespace(ns))
	check(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// A watch that goes on by itself, and one that is waited with.
func retried(ctx context.Context, maps dynamic.ResourceInterface) {
	list := must(maps.List(ctx, metav1.ListOptions{}))
	followed := must(watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			// The server ends it every second.
			seconds := int64(1)
			options.TimeoutSeconds = &seconds
			return maps.Watch(ctx, options)
		},
	}))
	defer followed.Stop()
	const number = 30
	go func() {
		for index := range number {
			must(maps.Create(ctx, object(fmt.Sprintf("r-%d", index), nil), metav1.CreateOptions{}))
		}
	}()
	for index := 0; index < number; {
		event, goesOn := <-followed.ResultChan()
		assert(goesOn && event.Type != watch.Error, "the watch ended: %v", event)
		if event.Type == watch.Added && event.Object.(*unstructured.Unstructured).GetName() != "kube-root-ca.crt" {
			name := event.Object.(*unstructured.Unstructured).GetName()
			assert(name == fmt.Sprintf("r-%d", index), "%s instead of %d", name, index)
			index++
		}
	}
}

func metadataAlone(ctx context.Context, maps metadata.ResourceInterface) {
	list := must(maps.List(ctx, metav1.ListOptions{Limit: 2}))
	assert(len(list.Items) == 2 && list.Continue != "", "%v", list)
	followed := must(maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, FieldSelector: "metadata.name=a"}))
	defer followed.Stop()
	found := must(maps.Get(ctx, "a", metav1.GetOptions{}))
	assert(found.UID != "", "%v", found)
	patch := []byte(`{"metadata": {"annotations": {"seen": "yes"}}}`)
	patched := must(maps.Patch(ctx, "a", types.MergePatchType, patch, metav1.PatchOptions{}))
	assert(patched.Annotations["seen"] == "yes", "%v", patched)
	check(maps.Delete(ctx, "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &found.UID}}))
	for _, wanted := range []watch.EventType{watch.Modified, watch.Deleted} {
		event := <-followed.ResultChan()
		meta, is := event.Object.(*metav1.PartialObjectMetadata)
		assert(is && event.Type == wanted && meta.Annotations["seen"] == "yes", "%v", event)
	}
}
