package main

import (
	"context"
	"encoding/json"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
)

// What there is, and by which names.
func discoveries(ctx context.Context, config *rest.Config) {
	const ns = "go-discovery"
	namespace(ctx, config, ns)
	client := discovery.NewDiscoveryClientForConfigOrDie(config)
	version := must(client.ServerVersion())
	assert(version.Major == "1" && version.Minor == "37", "%v", version)
	cached := memory.NewMemCacheClient(client)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	for short, plural := range map[string]string{"po": "pods", "deploy": "deployments", "hpa": "horizontalpodautoscalers", "crd": "customresourcedefinitions"} {
		expanded := restmapper.NewShortcutExpander(mapper, cached, func(string) {})
		found := must(expanded.ResourceFor(schema.GroupVersionResource{Resource: short}))
		assert(found.Resource == plural, "%s is %v", short, found)
	}
	documents(client)
	scaled(ctx, config, client, mapper, ns)
}

// Both sorts of OpenAPI documents are read whole.
func documents(client *discovery.DiscoveryClient) {
	two := must(client.OpenAPISchema())
	assert(len(two.GetDefinitions().GetAdditionalProperties()) > 300, "few definitions")
	paths := must(client.OpenAPIV3().Paths())
	assert(len(paths) > 20, "%d documents", len(paths))
	for path, document := range paths {
		// A definition of somebody else may go meanwhile.
		if strings.Contains(path, ".example.com/") {
			continue
		}
		text := must(document.Schema("application/json"))
		var read map[string]any
		check(json.Unmarshal(text, &read))
		assert(read["openapi"] == "3.0.0", "%s: %v", path, read["openapi"])
		packed := must(document.Schema("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"))
		assert(len(packed) > 0, "%s is empty", path)
	}
}

// The scale client, which finds out by itself how each kind is scaled.
func scaled(ctx context.Context, config *rest.Config, client *discovery.DiscoveryClient, mapper *restmapper.DeferredDiscoveryRESTMapper, ns string) {
	labels := map[string]string{"app": "s"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	none := int32(0)
	made := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.ReplicaSetSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}
	must(kubernetes.NewForConfigOrDie(config).AppsV1().ReplicaSets(ns).Create(ctx, made, metav1.CreateOptions{}))
	scales := must(scale.NewForConfig(config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(client))).Scales(ns)
	kind := schema.GroupResource{Group: "apps", Resource: "replicasets"}
	found := must(scales.Get(ctx, kind, "s", metav1.GetOptions{}))
	assert(found.Spec.Replicas == 0 && found.Status.Selector == "app=s", "%v", found)
	// Its controller may write meanwhile.
	found.ResourceVersion = ""
	found.Spec.Replicas = 1
	found = must(scales.Update(ctx, kind, found, metav1.UpdateOptions{}))
	assert(found.Spec.Replicas == 1, "%v", found)
}
