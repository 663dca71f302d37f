// Validates the objects on stdin against the schemas of their custom resource definitions. Prints one line per error.
import fs from "node:fs";

const MODULES = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
};

for (const object of JSON.parse(fs.readFileSync(0, "utf8"))) {
  const { [object.kind]: Model } = await import(MODULES[object.apiVersion]);
  try {
    new Model(object).validate();
  } catch (error) {
    console.log(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}
